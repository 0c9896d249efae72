"""LCCC: a dialogue is a list of utterances, segmented by blanks, speakers in turn from the user on.

Source: thu-coai/CDial-GPT (character-segmented toy, valid and test files; word-segmented train files).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from hantune.data.formats.common import Turn, conversation, unknown
from hantune.data.types import Conversation, Reject, Row

NAME = "lccc"
SHAPE = "一串句子"
NEEDS = (("dialog",),)
_BLANK = re.compile(r"(?<![A-Za-z0-9])(?<![A-Za-z0-9][,.!?;:])\s+|\s+(?![A-Za-z0-9])")
"""Blanks that segmentation put there: those that do not stand between two ASCII words."""


def matches(value: Any) -> str | None:
    """Why a record looks like LCCC, or None."""
    if isinstance(value, dict):
        return "有 dialog 字段, 里面是一串句子" if _is_dialogue(value.get("dialog")) else None
    return "每条是一串句子, 一人一句" if _is_dialogue(value) else None


def _is_dialogue(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, str) for item in value)


def read(row: Row) -> Iterator[Conversation | Reject]:
    """The dialogue without its segmentation."""
    utterances = row.value.get("dialog") if isinstance(row.value, dict) else row.value
    if not isinstance(utterances, list) or not _is_dialogue(utterances):
        yield unknown(row, NAME, SHAPE)
        return
    yield conversation(
        row, [Turn("assistant" if index % 2 else "user", desegment(text)) for index, text in enumerate(utterances)]
    )


def desegment(text: str) -> str:
    """The text before segmentation: characters joined; words joined but for a blank between two ASCII words."""
    pieces = text.split()
    joined = "".join(pieces)
    if len(joined) == len(pieces):  # every piece is one character
        return joined
    return " ".join(_BLANK.sub("", text.strip()).split())
