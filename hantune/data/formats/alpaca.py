"""alpaca: ``instruction``, ``input``, ``output``, perhaps ``system`` and ``history``.

Source: tatsu-lab/stanford_alpaca; ``system`` and ``history`` as in LLaMA-Factory.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hantune.data.formats import belle
from hantune.data.formats.common import (
    NotText,
    Turn,
    conversation,
    fields,
    history_of,
    question_of,
    reject,
    unknown,
)
from hantune.data.types import Conversation, Reject, Row

NAME = "alpaca"
SHAPE = "instruction, output 字段 (input, system, history 可有可无)"
NEEDS = (("instruction", "output"),)


def matches(value: Any) -> str | None:
    """Why a record looks like alpaca, or None."""
    return "有 instruction 和 output 字段" if fields(value, "instruction", "output") else None


def read(row: Row) -> Iterator[Conversation | Reject]:
    """The question (instruction, then input) and its answer, after the history."""
    record = row.value
    if not matches(record):
        yield unknown(row, NAME, SHAPE)
    elif belle.matches(record):
        yield from belle.read(row)
    else:
        try:
            question = question_of(record["instruction"], record.get("input"))
            turns = [*history_of(record), Turn("user", question), Turn("assistant", record["output"])]
        except NotText:
            yield reject(row, "format.not-text", "instruction, input 应当是文字, history 应当是 [[问, 答], ...]")
            return
        yield conversation(row, turns, record.get("system"))
