"""What is done to a conversation between its format and the disk: private values, cleaning; each change accounted for.

Private values come first, so that neither a sample in the manifest nor a line of ``rejects.jsonl`` holds one.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import operator
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from hantune.data.clean.pseudonyms import Masker, Mode, hit
from hantune.data.clean.rules import DEFAULT, FILTERS, FIXES, NAMES
from hantune.data.clean.screen import Screen
from hantune.data.types import Conversation, Message, Reject
from hantune.errors import ConfigError

SAMPLES, SAMPLE_CHARACTERS = 3, 60
"""How many changes of a rule are shown in the manifest, and how much of each."""


def chosen_rules(given: str | None) -> tuple[str, ...]:
    """The names of the rules behind ``--clean``, in their order: ``default``, ``all``, ``off``, or names with commas;
    ``-name`` leaves one out.

    Raises: ConfigError ``clean.unknown-rule``.
    """
    chosen: set[str] = set()
    for word in (given or "off").replace(",", ",").split(","):
        name = word.strip()
        if name.startswith("-"):
            chosen -= {_known(name[1:])}
        elif name in ("default", "all"):
            chosen |= set(DEFAULT if name == "default" else NAMES)
        elif name not in ("off", ""):
            chosen.add(_known(name))
    return tuple(name for name in NAMES if name in chosen)


def _known(name: str) -> str:
    if name in NAMES:
        return name
    near = difflib.get_close_matches(name, NAMES, n=1, cutoff=0.4)
    raise ConfigError(
        "clean.unknown-rule",
        f"没有叫 {name} 的清洗规则" + (f", 是不是 {near[0]}?" if near else ""),
        place="--clean",
        hint=f"可以写 default, all, off, 或者用逗号连起来: {','.join(NAMES)}",
    )


@dataclass
class Pipeline:
    """The rules that were asked for, what they did so far, and the stand-ins for private values."""

    rules: tuple[str, ...] = ()
    pii: Mode | None = None
    """None: mask chat logs, keep everything else."""
    blocked: Sequence[str] = ()
    """Words that no conversation may hold."""
    masker: Masker = field(default_factory=Masker)
    mode: Mode = "keep"
    has_masked: bool = False
    """Whether there is a way back to be kept."""
    changed: Counter[str] = field(default_factory=Counter)
    samples: dict[str, list[dict[str, str]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._fixes = [(name, FIXES[name].fix) for name in self.rules if name in FIXES]
        self._filters = [(name, FILTERS[name].judge) for name in self.rules if name in FILTERS]

    @functools.cached_property
    def acts_on(self) -> Screen | None:
        """The screen for conversations that no rule and no blocked word touches; None where there are no rules."""
        hints = [(FIXES | FILTERS)[name].hint() for name in self.rules]
        return Screen([*hints, tuple(self.blocked)]) if self.rules or self.blocked else None

    def start(self, people: Iterable[Sequence[str]] | None) -> None:
        """A new source begins; ``people`` are those of a chat log, each with all names; None for anything else."""
        self.mode = self.pii or ("keep" if people is None else "mask")
        self.has_masked |= self.mode == "mask"
        self.masker.know(people or ())

    def name(self, name: str) -> str:
        """A file's name as it may be told: exporters name files after people and numbers."""
        return name if self.mode == "keep" else self.masker.text(name)

    def conversation(self, conversation: Conversation) -> Conversation | Reject:
        """The conversation as it is kept, or why it is not."""
        if self.mode == "drop":
            found = Counter(each.kind for message in conversation.messages for each in self.masker.find(message.text))
            if found:
                self.masker.found.update(found)
                return hit(conversation, found)
        elif self.mode == "mask":
            conversation = self.masker.conversation(conversation)
        conversation = self._fixed(conversation)
        reason = self._why_not(conversation)
        return self._reject(conversation, *reason) if reason else conversation

    def reject(self, reject: Reject) -> Reject:
        """A reject as it may be written down."""
        return reject if self.mode == "keep" else self.masker.reject(reject)

    def _fixed(self, conversation: Conversation) -> Conversation:
        """The conversation after all rules that change a text; itself where none did."""
        messages: list[Message] = []
        for message in conversation.messages:
            text = message.text
            for name, fix in self._fixes:
                before, text = text, fix(text)
                if text != before:
                    self._note(name, conversation.source, before, text)
            messages.append(message if text == message.text else dataclasses.replace(message, text=text))
        if all(map(operator.is_, messages, conversation.messages)):
            return conversation
        return dataclasses.replace(conversation, messages=tuple(messages))

    def _note(self, name: str, source: str, before: str, after: str) -> None:
        self.changed[name] += 1
        samples = self.samples.setdefault(name, [])
        if len(samples) < SAMPLES:
            start = max(0, _first_difference(before, after) - 10)
            end = start + SAMPLE_CHARACTERS
            samples.append({"source": source, "before": before[start:end], "after": after[start:end]})

    def _why_not(self, conversation: Conversation) -> tuple[str, str] | None:
        """(rule, why) of the first rule that drops the conversation."""
        if self.rules and any(not message.text.strip() for message in conversation.messages):
            return "empty", "清洗以后有一句是空的"
        for name, judge in self._filters:
            if why := judge(conversation):
                return name, why
        for word in self.blocked:
            if any(word in message.text for message in conversation.messages):
                return "blocked", f"有屏蔽词: {word}"
        return None

    def _reject(self, conversation: Conversation, name: str, why: str) -> Reject:
        messages = [{"role": message.role, "content": message.text} for message in conversation.messages]
        return Reject(source=conversation.source, reason=f"clean.{name}", detail=why, record={"messages": messages})

    def report(self) -> dict[str, Any]:
        """For the manifest: {clean: {rules, changed, samples}, pii: {found}}; what was not asked for is not there."""
        told: dict[str, Any] = {}
        if self.rules:
            told["clean"] = {"rules": list(self.rules), "changed": dict(self.changed), "samples": self.samples}
        if self.masker.found:
            told["pii"] = {"found": dict(sorted(self.masker.found.items())), "values": len(self.masker.stand_ins)}
        return told


def _first_difference(one: str, other: str) -> int:
    for place, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return place
    return min(len(one), len(other))
