"""samsum: ``dialogue`` (several speakers, a line each) and its ``summary``.

The dialogue is the question as it stands; the words around it come from ``--template samsum``.

Source: Samsung/samsum.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hantune.data.formats.common import Turn, conversation, fields, unknown
from hantune.data.types import Conversation, Reject, Row

NAME = "samsum"
SHAPE = "dialogue 和 summary 字段"
NEEDS = (("dialogue", "summary"),)


def matches(value: Any) -> str | None:
    """Why a record looks like samsum, or None."""
    return "有 dialogue 和 summary 字段 (请用 --template samsum)" if fields(value, "dialogue", "summary") else None


def read(row: Row) -> Iterator[Conversation | Reject]:
    """The dialogue as question, the summary as answer."""
    if not matches(row.value):
        yield unknown(row, NAME, SHAPE)
        return
    yield conversation(row, [Turn("user", row.value["dialogue"]), Turn("assistant", row.value["summary"])])
