"""What the formats share: texts made plain, and the rules every conversation keeps."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, cast

from hantune.data.types import Conversation, Message, Reject, Role, Row

CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufeff]")
"""Control characters but TAB and line end, and the byte order mark: they mean nothing in a text."""
EMPTY_INPUTS = frozenset({"无输入", "<noinput>", "<无输入>", "noinput"})
"""What data sets write where the ``input`` field is empty."""


class NotText(Exception):
    """A value that should be text and is a list or an object."""


class Turn(NamedTuple):
    """Who says what; ``learn`` None leaves it to the role."""

    role: str
    text: Any
    learn: bool | None = None


def plain(value: Any) -> str:
    """``value`` as text: line ends are ``\\n``, no control characters, no blanks around it; numbers are written out.

    Raises: NotText.
    """
    if isinstance(value, str):
        text = value
    elif value is None:
        return ""
    elif isinstance(value, int | float) and not isinstance(value, bool):
        text = str(value)
    else:
        raise NotText
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return CONTROL.sub("", text).strip()


def question_of(instruction: Any, extra: Any) -> str:
    """The instruction and its input on lines of their own; a written-out "no input" is none.

    Raises: NotText.
    """
    first, second = plain(instruction), plain(extra)
    if second.lower() in EMPTY_INPUTS:
        second = ""
    return f"{first}\n{second}" if first and second else first or second


def history_of(record: Mapping[str, Any]) -> list[Turn]:
    """The turns before this question: ``history: [[question, answer], ...]``.

    Raises: NotText.
    """
    turns = []
    for pair in record.get("history") or []:
        if not isinstance(pair, list) or len(pair) != 2:
            raise NotText
        turns += [Turn("user", pair[0]), Turn("assistant", pair[1])]
    return turns


def conversation(row: Row, turns: Iterable[Turn], system: Any = None) -> Conversation | Reject:
    """The turns as a conversation that keeps the rules, or the first rule it breaks.

    An optional system message, then user and assistant in turn, no empty one; a question without an answer at the end
    is cut, an answer never is.
    """
    try:
        messages = [Message(role="system", text=plain(system))] if plain(system) else []
        for turn in turns:
            learn = None if turn.learn == (turn.role == "assistant") else turn.learn
            messages.append(Message(role=cast(Role, turn.role), text=plain(turn.text), learn=learn))
    except NotText:
        return reject(row, "format.not-text", "内容应当是文字, 这里是列表或对象")
    while messages and messages[0].role == "system" and not messages[0].text:
        del messages[0]
    problem = _broken_rule(messages)
    if problem:
        return reject(row, *problem)
    if messages[-1].role == "user":
        messages.pop()
    if not any(message.is_learned for message in messages):
        return reject(row, "format.nothing-to-learn", "每个回答的 weight 都是 0, 没有要学的")
    return Conversation(messages=tuple(messages), source=row.source)


def whole_text(row: Row, value: Any) -> Conversation | Reject:
    """A text without question and answer, all of it learned: one message of the assistant."""
    try:
        text = plain(value)
    except NotText:
        return reject(row, "format.not-text", "text 应当是文字")
    if not text:
        return reject(row, "format.empty-answer", "text 是空的")
    return Conversation(messages=(Message(role="assistant", text=text),), source=row.source)


def _broken_rule(messages: list[Message]) -> tuple[str, str] | None:
    """The code and text of the first rule that does not hold."""
    turns = messages[1:] if messages and messages[0].role == "system" else messages
    for number, message in enumerate(turns):
        expected = "assistant" if number % 2 else "user"
        if message.role != expected:
            names = {"user": "用户", "assistant": "助手", "system": "系统提示"}
            who = names.get(message.role, message.role)
            return "format.roles", f"第 {number + 1} 句应当是{names[expected]}, 这里是{who}"
    if len(turns) < 2:
        return "format.one-turn", "只有一句话, 没有回答" if turns else "一句话也没有"
    if len(turns) % 2:  # the last question has no answer and is cut
        turns = turns[:-1]
    for number, message in enumerate(turns):
        if not message.text:
            if message.role == "user":
                return "format.empty-question", f"第 {number + 1} 句 (用户) 是空的"
            return "format.empty-answer", f"第 {number + 1} 句 (助手) 是空的"
    return None


def reject(row: Row, reason: str, detail: str) -> Reject:
    """The row as a reject."""
    return Reject(source=row.source, reason=reason, detail=detail, record=row.value)


def unknown(row: Row, format: str, needs: str) -> Reject:
    """The row as one that has not the fields of its file's format."""
    return reject(row, "format.unknown-fields", f"不像 {format}: 要有 {needs}, 这里是 {describe(row.value)}")


def describe(value: Any) -> str:
    """What a record looks like, in a few words."""
    if isinstance(value, Mapping):
        names = [str(name)[:30] for name in list(value)[:8]]
        return f"字段 {', '.join(names)}{' ...' if len(value) > 8 else ''}" if names else "一个空对象"
    if isinstance(value, list):
        inner = type(value[0]).__name__ if value else "空"
        return f"{len(value)} 项的列表 (第一项: {inner})"
    return f"单独一个值 {str(value)[:30]!r}"


def fields(value: Any, *names: str) -> bool:
    """Whether ``value`` is an object with all these fields."""
    return isinstance(value, Mapping) and all(name in value for name in names)
