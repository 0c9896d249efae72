"""BELLE: ``input`` and ``target``; several turns as ``Human:...\\nAssistant:...`` inside one field; or
``conversations`` between ``human`` and ``assistant``.

Source: LianjiaTech/BELLE, the 0.5M to 3.5M data sets.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from hantune.data.formats import sharegpt
from hantune.data.formats.common import NotText, Turn, conversation, fields, question_of, reject, unknown
from hantune.data.types import Conversation, Reject, Row

NAME = "belle"
SHAPE = "input 和 target 字段, 或写成 Human:/Assistant: 的 instruction, 或 conversations"
NEEDS = (("input", "target"),)
_SPEAKER = re.compile(r"(?:^|\n)[ \t]*(Human|Assistant)[:：][ \t]*")
_ROLES = {"Human": "user", "Assistant": "assistant"}


def matches(value: Any) -> str | None:
    """Why a record looks like BELLE, or None."""
    if fields(value, "input", "target"):
        return "有 input 和 target 字段"
    if fields(value, "instruction", "output") and _is_transcript(value["instruction"]):
        return "instruction 里有 Human: 和 Assistant: 的多轮对话"
    if isinstance(value, dict) and isinstance(value.get("conversations"), list):
        speakers = {turn.get("from") for turn in value["conversations"] if isinstance(turn, dict)}
        if speakers == {"human", "assistant"}:
            return "有 conversations 字段, 说话人是 human 和 assistant"
    return None


def read(row: Row) -> Iterator[Conversation | Reject]:
    """The turns inside the question, then the answer."""
    record = row.value
    if isinstance(record, dict) and "conversations" in record:
        yield from sharegpt.read(row)
        return
    answer = next((record[name] for name in ("target", "output") if fields(record, name)), None)
    if answer is None or not (fields(record, "instruction") or fields(record, "input")):
        yield unknown(row, NAME, SHAPE)
        return
    try:
        question = question_of(record.get("instruction"), record.get("input"))
    except NotText:
        yield reject(row, "format.not-text", "instruction, input 应当是文字")
        return
    turns = transcript(question) if _is_transcript(question) else [Turn("user", question)]
    yield conversation(row, [*turns, Turn("assistant", answer)])


def _is_transcript(text: Any) -> bool:
    return isinstance(text, str) and text.lstrip().startswith(("Human:", "Human：")) and "Assistant" in text


def transcript(text: str) -> list[Turn]:
    """The turns of ``Human:...\\nAssistant:...``; an empty last one awaits the answer and is left out."""
    pieces = _SPEAKER.split(text.strip())[1:]
    turns = [Turn(_ROLES[speaker], said) for speaker, said in zip(pieces[0::2], pieces[1::2], strict=True)]
    if turns[-1].role == "assistant" and not turns[-1].text.strip():
        turns.pop()
    return turns
