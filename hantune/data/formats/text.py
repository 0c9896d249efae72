"""text: ``{"text": ...}``, or a paragraph of a ``.txt`` or ``.md`` file: continued pre-training, everything learned.

A text becomes a conversation of one learned assistant message; the template ``plain`` writes it as it stands.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hantune.data.formats.common import fields, unknown, whole_text
from hantune.data.types import Conversation, Reject, Row

NAME = "text"
SHAPE = "text 字段, 或者整段的文字"
NEEDS = (("text",),)


def matches(value: Any) -> str | None:
    """Why a record looks like text, or None."""
    if not fields(value, "text") or not isinstance(value["text"], str):
        return None
    return "只有文字, 没有问和答: 每个字都学 (接着预训练, 请用 --template plain)"


def read(row: Row) -> Iterator[Conversation | Reject]:
    """The text as one message that is learned."""
    yield whole_text(row, row.value["text"]) if fields(row.value, "text") else unknown(row, NAME, SHAPE)
