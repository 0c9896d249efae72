"""Private values out, stand-ins in: the same value is the same ``<手机1>`` all through a run; and the way back.

The map from stand-in to value is kept apart from the data, readable by its owner only: whoever gets the data, the run
or the model gets no value.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hantune.data.clean.privacy import NAME, PLACEHOLDER, Found, find, names_pattern
from hantune.data.types import Conversation, Reject
from hantune.paths import json_bytes, sweep, write_file

Mode = Literal["mask", "keep", "drop"]
"""What to do with private values: stand-ins for them, leave them, leave the conversation out."""


@dataclass
class Masker:
    """The stand-ins handed out so far. Numbers count up by kind in the order in which values are met."""

    stand_ins: dict[tuple[str, str], str] = field(default_factory=dict)
    found: Counter[str] = field(default_factory=Counter)
    _numbers: Counter[str] = field(default_factory=Counter)
    _names: re.Pattern[str] | None = None
    _aliases: dict[str, str] = field(default_factory=dict)

    def know(self, people: Iterable[Sequence[str]]) -> None:
        """The people of the log that is read from now on, each with all names: these are private values too."""
        self._aliases = {name.strip(): names[0].strip() for names in people for name in names if names[0].strip()}
        self._names = names_pattern(list(self._aliases))

    def fresh(self) -> Masker:
        """One that knows the same people and has seen nothing."""
        return Masker(_names=self._names, _aliases=self._aliases)

    def find(self, text: str) -> list[Found]:
        """The private values of a text."""
        return find(text, self._names)

    def text(self, text: str) -> str:
        """The text with stand-ins; counted in ``found``."""
        found = self.find(text)
        if not found:
            return text
        parts, end = [], 0
        for each in found:
            parts += [text[end : each.start], self._stand_in(each)]
            end = each.end
            self.found[each.kind] += 1
        return "".join([*parts, text[end:]])

    def _stand_in(self, found: Found) -> str:
        value = self._aliases.get(found.value, found.value) if found.kind == NAME else found.value
        key = (found.kind, value)
        if key not in self.stand_ins:
            self._numbers[found.kind] += 1
            self.stand_ins[key] = f"<{found.kind}{self._numbers[found.kind]}>"
        return self.stand_ins[key]

    def conversation(self, conversation: Conversation) -> Conversation:
        """The conversation with stand-ins; itself if it holds nothing private."""
        texts = [self.text(message.text) for message in conversation.messages]
        if all(text is message.text for text, message in zip(texts, conversation.messages, strict=True)):
            return conversation
        pairs = zip(conversation.messages, texts, strict=True)
        messages = tuple(dataclasses.replace(message, text=text) for message, text in pairs)
        return dataclasses.replace(conversation, messages=messages)

    def reject(self, reject: Reject) -> Reject:
        """A reject whose text and record hold stand-ins: ``rejects.jsonl`` travels with the data."""
        return dataclasses.replace(reject, detail=self.text(reject.detail), record=self.record(reject.record))

    def record(self, value: Any) -> Any:
        """A raw record with stand-ins in all its texts; numbers long enough to be private are texts here."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10_000_000:
            masked = self.text(str(value))
            return value if masked == str(value) else masked
        if isinstance(value, Mapping):
            return {self.record(name): self.record(item) for name, item in value.items()}
        return [self.record(item) for item in value] if isinstance(value, list | tuple) else value

    def entries(self) -> dict[str, dict[str, str]]:
        """stand-in -> {kind, value}: the way back."""
        return {stand_in: {"kind": kind, "value": value} for (kind, value), stand_in in self.stand_ins.items()}


def neutral(conversation: Conversation) -> Conversation:
    """The conversation with ``<手机>`` for every phone number and every stand-in of one: so that data compare equal
    whether they were masked or not."""
    texts = [_neutral(message.text) for message in conversation.messages]
    pairs = zip(conversation.messages, texts, strict=True)
    return dataclasses.replace(conversation, messages=tuple(dataclasses.replace(m, text=text) for m, text in pairs))


def _neutral(text: str) -> str:
    for each in reversed(find(text)):
        text = f"{text[: each.start]}<{each.kind}>{text[each.end :]}"
    return PLACEHOLDER.sub(lambda match: match[0].rstrip("0123456789>") + ">", text) if "<" in text else text


def hit(conversation: Conversation, found: Counter[str]) -> Reject:
    """The reject for a conversation with private values (``--pii drop``); the record is left out, being private."""
    kinds = ", ".join(f"{kind} {count} 处" for kind, count in sorted(found.items()))
    return Reject(source=conversation.source, reason="pii.found", detail=f"有隐私内容: {kinds}", record=None)


def map_path(out: Path) -> Path | None:
    """Where the map of ``out`` goes: beside it; None inside a run, which is handed on as a whole."""
    parent = out.absolute().parent
    is_in_run = (parent / "events.jsonl").exists() or (parent / "config.yaml").exists() or (parent / ".lock").exists()
    return None if is_in_run else out.with_name(f"{out.name}.pii-map.json")


def write_map(path: Path, masker: Masker, key: str) -> None:
    """Write the map whole or not at all, from its first byte on readable by its owner only (mode 0600).

    Raises: MachineError ``machine.disk-full``, ``machine.no-write``.
    """
    sweep(path)  # half a map of a run that was killed holds values too
    write_file(path, json_bytes({"format": 1, "key": key, "values": masker.entries()}), mode=0o600)
