"""preference: a question with a ``chosen`` and a ``rejected`` answer; only the chosen one is kept.

The answers are texts, messages, or whole conversations (TRL); the question is a text or the messages before. Also
``Human:``/``Assistant:`` transcripts in both fields.

Source: LLaMA-Factory (``ranking``), TRL's preference format, Anthropic/hh-rlhf.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hantune.data.formats.belle import transcript
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
from hantune.data.formats.sharegpt import ROLES, TOOLS
from hantune.data.types import Conversation, Reject, Row

NAME = "preference"
SHAPE = "chosen 和 rejected 字段, 还有 prompt, instruction, question 或 conversations"
NEEDS = (("chosen", "rejected"),)
QUESTIONS = ("prompt", "instruction", "question", "query", "input")


def matches(value: Any) -> str | None:
    """Why a record looks like a preference, or None."""
    return "有 chosen 和 rejected 字段: 只学 chosen (好的那个)" if fields(value, "chosen", "rejected") else None


def read(row: Row) -> Iterator[Conversation | Reject]:
    """The conversation that ends with the chosen answer."""
    record = row.value
    if not matches(record):
        yield unknown(row, NAME, SHAPE)
        return
    try:
        turns = [*_before(record), *_turns(record["chosen"])]
    except NotText:
        yield reject(row, "format.not-text", "chosen 应当是文字, 消息, 或一串消息")
        return
    except KeyError as error:
        code = "format.tool-turn" if error.args[0] in TOOLS else "format.roles"
        yield reject(row, code, f"说话人 {error.args[0]!r} 不认识: 只能是 human, gpt, system 这样的名字")
        return
    yield conversation(row, turns, record.get("system"))


def _before(record: dict[str, Any]) -> list[Turn]:
    """What was said before the answer; nothing where the chosen field holds it all."""
    for name in ("conversations", "messages"):
        if isinstance(record.get(name), list):
            return _turns(record[name])
    question = next((name for name in QUESTIONS if record.get(name)), None)
    if question is None:
        return []
    if isinstance(record[question], list):
        return _turns(record[question])
    extra = record.get("input") if question != "input" else None
    said = Turn("user", question_of(record[question], extra))
    is_whole = isinstance(record["chosen"], list) and len(record["chosen"]) > 1
    return [] if is_whole else [*history_of(record), said]


def _turns(value: Any) -> list[Turn]:
    """The turns of a list of messages, of one message, of a transcript, or of a bare answer.

    Raises: NotText; KeyError with a speaker nobody knows.
    """
    if isinstance(value, list):
        return [turn for item in value for turn in _turns(item)]
    if isinstance(value, dict):
        speaker = str(value.get("from", value.get("role", ""))).strip().lower()
        return [Turn(ROLES[speaker], value.get("value", value.get("content")))]
    if not isinstance(value, str):
        raise NotText
    is_transcript = value.lstrip().startswith("Human:") and "Assistant:" in value
    return transcript(value) if is_transcript else [Turn("assistant", value)]
