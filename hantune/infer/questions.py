"""The questions of a file: any format of ``hantune data prepare``, with or without answers, or a plain ``prompt``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from hantune.data.formats import FORMATS, detect
from hantune.data.formats.pairs import NAMES
from hantune.data.prepared import open_prepared
from hantune.data.sources import SourceFile, expand, inspect, read_rows
from hantune.data.types import Conversation, Message, Reject, Row

LOOKED_AT = 100
"""Records at the head of a file by which its format is recognised."""
PLACEHOLDER = "(这里还没有回答)"
QUESTION_FIELDS = (("instruction", "output"), *NAMES)


@dataclass(frozen=True, kw_only=True)
class Question:
    """What to ask; ``reference`` is the answer that the file itself gives, if it gives one; ``format``: of the file."""

    messages: tuple[Message, ...]
    reference: str | None
    source: str
    format: str = ""


def read_questions(path: Path) -> Iterator[Question | Reject]:
    """The questions of a file, folder or PREPARED folder (its validation part, or the other one if that is empty).

    Records are ``{"prompt"}``, ``{"messages"}`` or any format of ``hantune data prepare``; an answer may be missing.
    Raises: DataError ``source.*``, ``format.unknown-fields``.
    """
    for place in expand(str(path)):
        source = inspect(place)
        if source.container == "prepared":
            prepared = open_prepared(source.path)
            yield from map(_question, prepared.conversations("val" if prepared.count("val") else "train"))
        else:
            yield from _read_file(source)


def _read_file(source: SourceFile) -> Iterator[Question | Reject]:
    rows = (row if isinstance(row, Reject) else _with_answer(row) for row in read_rows(source))
    head = list(islice(rows, LOOKED_AT))
    known = [row for row in head if isinstance(row, Row)]
    if not known:
        yield from (row for row in head if isinstance(row, Reject))
        return
    kind = FORMATS[detect(known).name]
    for row in chain(head, rows):
        if isinstance(row, Reject):
            yield row
        else:
            yield from (item if isinstance(item, Reject) else _question(item, kind.NAME) for item in kind.read(row))


def _with_answer(row: Row) -> Row:
    """The row with a placeholder where the answer to its last question is missing, so that every format can read it."""
    value = row.value
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return Row(value=_closed(value), source=row.source)
    if not isinstance(value, dict):
        return row
    if value.keys() == {"text"}:  # a text file of questions
        value = {"prompt": value["text"]}
    for name in ("messages", "conversations"):
        if isinstance(value.get(name), list):
            return Row(value={**value, name: _closed(value[name])}, source=row.source)
    names = {str(name).strip().lower(): name for name in value}
    answers = [answer for question, answer in QUESTION_FIELDS if question in names]
    there = [names[answer] for answer in answers if answer in names]
    if answers and not any(value[name] for name in there):
        return Row(value={**value, (there or answers)[0]: PLACEHOLDER}, source=row.source)
    return row


def _closed(messages: list[Any]) -> list[Any]:
    """``messages`` with a placeholder answer when a user has the last word."""
    last = messages[-1] if messages else None
    if isinstance(last, dict) and last.get("role") in ("user", "human"):
        return [*messages, {"role": "assistant", "content": PLACEHOLDER}]
    if isinstance(last, dict) and last.get("from") in ("user", "human"):
        return [*messages, {"from": "assistant" if last["from"] == "human" else "gpt", "value": PLACEHOLDER}]
    return messages


def _question(conversation: Conversation, format: str = "") -> Question:
    """Everything before the last answer; that answer is the reference."""
    *before, last = conversation.messages
    reference = None if last.text == PLACEHOLDER else last.text
    return Question(messages=tuple(before), reference=reference, source=conversation.source, format=format)


def first_record(path: Path) -> Any:
    """The first whole record of a file or folder as it stands there; None where there is none.

    Raises: DataError ``source.*``.
    """
    source = inspect(expand(str(path))[0])
    if source.container == "prepared":
        return None
    return next((row.value for row in read_rows(source) if isinstance(row, Row)), None)
