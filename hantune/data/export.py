"""``hantune data export``: prepared conversations in the layouts of other tools, each one read back before it counts.

A conversation that a layout cannot express (a muted answer in alpaca, a text without a question) is left out and
counted, never written as something else: what the format of that layout reads must equal what was to be written.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import orjson

from hantune.data.dataset_info import NAME as INFO
from hantune.data.formats import FORMATS
from hantune.data.prepared import Prepared
from hantune.data.types import Conversation, Message, Row
from hantune.errors import ConfigError, DataError, RunError
from hantune.log import console
from hantune.paths import TEMPORARY, disk_errors, sync_folder, write_json

Part = Literal["train", "val"]


class Layout(NamedTuple):
    """How a conversation is written, and the format that reads it again."""

    write: Callable[[Sequence[Message]], dict[str, Any]]
    format: str


def _messages(messages: Sequence[Message]) -> dict[str, Any]:
    """OpenAI's layout; ``weight`` stands where a message is not learned as its role says."""
    items: list[dict[str, Any]] = []
    for message in messages:
        item: dict[str, Any] = {"role": message.role, "content": message.text}
        if message.is_learned != (message.role == "assistant"):
            item["weight"] = int(message.is_learned)
        items.append(item)
    if len(items) == 1:
        items[0]["learn"] = messages[0].is_learned
    return {"messages": items}


def _sharegpt(messages: Sequence[Message]) -> dict[str, Any]:
    names = {"user": "human", "assistant": "gpt"}
    system, turns = _system_and_turns(messages)
    record = {"conversations": [{"from": names[turn.role], "value": turn.text} for turn in turns]}
    return {**record, "system": system} if system else record


def _alpaca(messages: Sequence[Message]) -> dict[str, Any]:
    system, turns = _system_and_turns(messages)
    pairs = [[turn.text, answer.text] for turn, answer in zip(turns[0::2], turns[1::2], strict=False)]
    question, answer = pairs.pop() if pairs else ("", "")
    record: dict[str, Any] = {"instruction": question, "input": "", "output": answer}
    if system:
        record["system"] = system
    return {**record, "history": pairs} if pairs else record


def _system_and_turns(messages: Sequence[Message]) -> tuple[str, Sequence[Message]]:
    has_system = messages[0].role == "system"
    return (messages[0].text, messages[1:]) if has_system else ("", messages)


LAYOUTS = {
    "messages": Layout(_messages, "messages"),
    "sharegpt": Layout(_sharegpt, "sharegpt"),
    "alpaca": Layout(_alpaca, "alpaca"),
    "llamafactory": Layout(_sharegpt, "sharegpt"),
}
"""name -> layout; ``llamafactory`` is sharegpt with an entry in the ``dataset_info.json`` beside it."""


def export(prepared: Prepared, layout: str, out: Path, part: Part = "train", replace: bool = False) -> dict[str, Any]:
    """{to, part, written, left_out: {why: count}, out, files}: ``out`` is whole when it has its name.

    Raises: ConfigError ``export.unknown-layout``, ``export.bad-name``; RunError ``run.exists``; DataError
        ``export.nothing-left``, ``export.broken-info``; MachineError.
    """
    chosen = _layout(layout)
    if out.suffix not in (".json", ".jsonl"):
        raise ConfigError(
            "export.bad-name", "输出文件的名字要以 .json 或 .jsonl 结尾", place=f"--out {out}", hint="改成 .jsonl"
        )
    if out.exists() and not replace:
        raise RunError("run.exists", "已经有这个文件, 不会覆盖", place=str(out), hint="换一个 --out, 或加上 --replace")
    info = _info_with(out) if layout == "llamafactory" else None
    left_out: Counter[str] = Counter()
    with disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        written = _write(out, _records(prepared.conversations(part), chosen, left_out))
    if info is not None:
        write_json(out.parent / INFO, info)
    files = [str(out)] + ([str(out.parent / INFO)] if info is not None else [])
    return {"to": layout, "part": part, "written": written, "left_out": dict(left_out), "files": files}


def _layout(name: str) -> Layout:
    if name not in LAYOUTS:
        raise ConfigError(
            "export.unknown-layout", f"没有叫 {name} 的写法", place="--to", hint=f"--to 可以是 {', '.join(LAYOUTS)}"
        )
    return LAYOUTS[name]


def _records(conversations: Iterator[Conversation], layout: Layout, left_out: Counter[str]) -> Iterator[dict[str, Any]]:
    """The records that read back as what they were written from."""
    for conversation in conversations:
        record = layout.write(conversation.messages)
        (back,) = FORMATS[layout.format].read(Row(value=record, source=conversation.source))
        if isinstance(back, Conversation) and _same(back, conversation):
            yield record
        else:
            left_out[_why(conversation)] += 1


def _same(one: Conversation, other: Conversation) -> bool:
    """Whether two conversations say and teach the same."""
    parts = [[(item.role, item.text, item.is_learned) for item in each.messages] for each in (one, other)]
    return parts[0] == parts[1]


def _why(conversation: Conversation) -> str:
    """Why a layout has no words for a conversation."""
    if any(message.is_learned != (message.role == "assistant") for message in conversation.messages):
        return "有不学的回答, 这种写法没有办法说"
    if not any(message.role == "user" for message in conversation.messages):
        return "只有文字, 没有问题"
    return "写出后读回来会变样"


def _write(out: Path, records: Iterator[dict[str, Any]]) -> int:
    """One record a line, between brackets where the name says ``.json``; returns how many.

    Raises: DataError ``export.nothing-left``.
    """
    temporary = out.with_name(f"{TEMPORARY}{out.name}-{os.getpid()}")
    is_array = out.suffix == ".json"
    count = 0
    try:
        with temporary.open("wb") as file, console.progress("导出") as bar:
            file.write(b"[\n" if is_array else b"")
            for count, record in enumerate(records, 1):
                comma = b",\n" if is_array and count > 1 else b""
                file.write(comma + orjson.dumps(record) + (b"" if is_array else b"\n"))
                bar.advance()
            file.write(b"\n]\n" if is_array else b"")
            file.flush()
            os.fsync(file.fileno())
        if not count:
            raise DataError(
                "export.nothing-left",
                "没有一段对话能写成这种样子",
                place=str(out),
                hint="--to messages 什么都能写; 看看有什么: hantune data look DIR",
            )
        os.replace(temporary, out)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(out.parent)
    return count


def _info_with(out: Path) -> dict[str, Any]:
    """The ``dataset_info.json`` beside ``out``, with an entry for it added.

    Raises: DataError ``export.broken-info``.
    """
    path = out.parent / INFO
    try:
        entries = json.loads(path.read_bytes()) if path.is_file() else {}
    except ValueError:
        entries = None
    if not isinstance(entries, dict):
        raise DataError(
            "export.broken-info", f"{INFO} 不是 LLaMA-Factory 的那种, 没有动它", place=str(path), hint="换一个文件夹"
        )
    columns = {"messages": "conversations", "system": "system"}
    entry = {"file_name": out.name, "formatting": "sharegpt", "columns": columns}
    return {**entries, out.stem: entry}
