"""The dialogues of a prompt file, and an answer to each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hantune.data.jsonstream import BrokenValue, parse
from hantune.data.types import Message
from hantune.errors import DataError
from hantune.infer.engine import Completion, Engine
from hantune.infer.sample import SamplingParams


def read_dialogues(path: Path) -> list[list[Message]]:
    """The dialogues of a prompt file: an array of arrays of ``{"role", "content"}``, each ending with a user.

    Raises: DataError ``infer.prompt-file`` with the number of the dialogue.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _bad_file(path, "没有这个文件" if not path.exists() else f"打不开: {error}") from error
    try:
        value = parse(_decoded(data))
    except BrokenValue as error:
        raise _bad_file(path, str(error)) from error
    if not isinstance(value, list) or not value:
        raise _bad_file(path, "最外层要是一个数组, 里面每段对话又是一个数组")
    return [_dialogue(path, number, item) for number, item in enumerate(value, 1)]


def _decoded(data: bytes) -> str:
    """UTF-8, with or without a mark, else GB18030."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("gb18030", "replace")


def _dialogue(path: Path, number: int, value: Any) -> list[Message]:
    """One dialogue, checked: optional system, then user and assistant in turn, the last a user."""
    if not isinstance(value, list) or not value:
        raise _bad_file(path, "一段对话要是一个非空的数组", number)
    for position, item in enumerate(value, 1):
        is_message = isinstance(item, dict) and {"role", "content"} <= item.keys()
        if not is_message or not isinstance(item["content"], str):
            raise _bad_file(path, f'第 {position} 条消息要写成 {{"role": "user", "content": "文字"}}', number)
    roles = [item["role"] for item in value]
    rest = roles[1:] if roles[0] == "system" else roles
    for position, role in enumerate(rest):
        wanted = ("user", "assistant")[position % 2]
        if role != wanted:
            place = position + len(roles) - len(rest) + 1
            raise _bad_file(path, f"第 {place} 条消息的 role 是 {role!r}, 应当是 {wanted!r}", number)
    if len(rest) % 2 == 0:
        raise _bad_file(path, "最后一条消息要是 user 的问题", number)
    return [Message(role=item["role"], text=item["content"]) for item in value]


def answer_dialogues(
    engine: Engine, dialogues: Sequence[Sequence[Message]], params: SamplingParams
) -> list[Completion]:
    """One answer per dialogue, in order; the oldest turns of one that is too long are left out."""
    return engine.answer_many([engine.fit(dialogue, params) for dialogue in dialogues], params)


def _bad_file(path: Path, what: str, number: int | None = None) -> DataError:
    return DataError(
        "infer.prompt-file",
        what,
        place=str(path) if number is None else f"{path}: 第 {number} 段对话",
        hint='写成 [[{"role": "user", "content": "你好"}], [...]]: 可以先有一条 system, 然后 user 和 assistant 轮流',
    )
