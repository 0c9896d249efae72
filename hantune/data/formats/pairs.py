"""pairs: a question field and an answer field under one of their many names, in JSON, CSV or TSV.

Source: MedicalGPT, huatuo (``questions`` may be a list, nested ones too), Toyhom (``title`` and ``ask``), ms-swift.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hantune.data.formats.common import NotText, Turn, conversation, history_of, plain, reject, unknown
from hantune.data.types import Conversation, Reject, Row

NAME = "pairs"
NAMES = (
    ("query", "response"),
    ("question", "answer"),
    ("questions", "answers"),
    ("questions", "answer"),
    ("问题", "回答"),
    ("问题", "答案"),
    ("问", "答"),
    ("ask", "answer"),
    ("prompt", "completion"),
    ("prompt", "response"),
    ("instruction", "response"),
    ("instruction", "output"),
    ("input", "output"),
    ("input", "target"),
)
"""(question, answer) by their names in lower case, the first that is there wins."""
SHAPE = "一列问题一列回答, 如 question 和 answer, 问题 和 回答"
NEEDS = NAMES


def matches(value: Any) -> str | None:
    """Why a record looks like a pair, or None."""
    names = _names(value)
    return f"有 {names[0]} 和 {names[1]} 字段" if names else None


def _names(value: Any) -> tuple[str, str] | None:
    """The record's own names of its question and its answer."""
    if not isinstance(value, Mapping):
        return None
    own = {str(name).strip().lower(): str(name) for name in value}
    for question, answer in NAMES:
        if question in own and answer in own:
            return own[question], own[answer]
    return None


def read(row: Row) -> Iterator[Conversation | Reject]:
    """The pair after its history; each question of a list becomes a conversation of its own."""
    names = _names(row.value)
    if not names:
        yield unknown(row, NAME, SHAPE)
        return
    record = row.value
    questions, answers = record[names[0]], record[names[1]]
    try:
        history = history_of(record)
        for question, answer in _spread(questions, answers):
            question = _with_title(record, names[0], question)
            yield conversation(row, [*history, Turn("user", question), Turn("assistant", answer)], record.get("system"))
    except NotText:
        yield reject(row, "format.not-text", "问题和回答应当是文字, 或者一样多的两个列表")


def _with_title(record: Mapping[str, Any], name: str, question: Any) -> Any:
    """Forum posts (``title`` and ``ask``) say the question in both; a title that the text repeats is left out."""
    title = plain(record.get("title")) if name.strip().lower() == "ask" else ""
    text = plain(question)
    return f"{title}\n{text}" if title and not text.startswith(title) else text


def _spread(questions: Any, answers: Any) -> list[tuple[Any, Any]]:
    """(question, answer) pairs: lists of equal length go together, several questions share one answer.

    Raises: NotText.
    """
    if not isinstance(questions, list):
        return [(questions, _only(answers))]
    if isinstance(answers, list) and len(answers) == len(questions):
        pairs = list(zip(questions, answers, strict=True))
    else:
        pairs = [(question, _only(answers)) for question in questions]
    return [(text, answer) for question, answer in pairs for text in _flat(question)] or [("", "")]


def _only(answers: Any) -> Any:
    """The one answer, also out of a list of one.

    Raises: NotText.
    """
    if isinstance(answers, list):
        if len(answers) != 1:
            raise NotText
        return answers[0]
    return answers


def _flat(value: Any) -> list[Any]:
    """The texts of a list however deeply nested."""
    return [text for item in value for text in _flat(item)] if isinstance(value, list) else [value]
