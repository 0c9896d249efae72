"""FlagAlpha: a dialogue in its own template, whole in ``text`` or cut into ``input`` and ``target``.

``<s>Human: ...\\n</s><s>Assistant: ...\\n</s>``, perhaps with ``<s>System: ...\\n</s>`` in front.

Source: LlamaFamily/Llama-Chinese, ``data/train_sft.csv``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from hantune.data.formats.common import Turn, conversation, unknown
from hantune.data.types import Conversation, Reject, Row

NAME = "flagalpha"
SHAPE = "text 一列, 里面是 <s>Human: ...</s><s>Assistant: ...</s>"
NEEDS = (("text",), ("input", "target"))
_SPEAKER = re.compile(r"<s>\s*(Human|Assistant|System)[:：]")
_ROLES = {"Human": "user", "Assistant": "assistant", "System": "system"}


def matches(value: Any) -> str | None:
    """Why a record looks like FlagAlpha, or None."""
    return "里面是 <s>Human: 和 <s>Assistant: 写成的对话" if _transcript(value) else None


def _transcript(value: Any) -> str | None:
    """The record's dialogue in its template."""
    if not isinstance(value, dict):
        return None
    for names in (("text",), ("input", "target"), ("input", "output")):
        texts = [value.get(name) for name in names]
        whole = "".join(text for text in texts if isinstance(text, str))
        if all(isinstance(text, str) for text in texts) and _SPEAKER.match(whole.lstrip()):
            return whole
    return None


def read(row: Row) -> Iterator[Conversation | Reject]:
    """The turns without the template around them."""
    text = _transcript(row.value)
    if text is None:
        yield unknown(row, NAME, SHAPE)
        return
    pieces = _SPEAKER.split(text.strip())[1:]
    turns = [
        Turn(_ROLES[speaker], said.strip().removesuffix("</s>"))
        for speaker, said in zip(pieces[0::2], pieces[1::2], strict=True)
    ]
    yield conversation(row, turns)
