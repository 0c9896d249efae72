"""One chat's messages, in the order of their times, as conversations: runs, answers, and what becomes no sample."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from hantune.data.formats.said import Said
from hantune.data.types import Conversation, Message, Reject

MERGE_SECONDS = 120
PAIR_SECONDS = 300
SESSION_SECONDS = 3600
MOST_PAIRS = 200
MOST_BEFORE = 50
"""Messages of others before an answer that are kept, where a busy group says more."""
MOST_IN_TURN = 500
REASONS = {
    "chatlog.no-question": "你的话前面没有别人的话, 不知道在回答什么",
    "chatlog.no-answer": "别人的话, 你没有回",
    "chatlog.late-answer": "别人的话, 你过了很久才回, 不算回答",
    "chatlog.cut": "别人的话后面是图片, 语音, 分享一类, 看不到的内容隔断了对话",
    "chatlog.not-text": "不是能学的文字",
    "chatlog.bad-time": "读不懂的时间",
}
"""Reason -> what it says about a message in the yield report."""
ADVICE = {
    "chatlog.no-question": "确认 --me 说的是你自己, 不是对方",
    "chatlog.no-answer": "确认 --me 说对了人; 群里只有你回过的话能用",
    "chatlog.late-answer": "隔得久也算回答, 就从 Python 放宽配对的时间 (docs/reference/chatlogs.md 最后一行)",
    "chatlog.cut": "这是正常的: 看不到图片, 就学不了对图片的回答",
    "chatlog.not-text": "这是正常的: 图片, 表情, 语音, 系统通知里没有文字",
    "chatlog.bad-time": "把时间一列改成 2024-10-04 11:42:00 的样子",
}
"""Reason -> what helps against it."""


@dataclass(frozen=True)
class Windows:
    """How near messages must stand, in seconds; how many pairs of question and answer one sample has at most."""

    merge: int = MERGE_SECONDS
    pair: int = PAIR_SECONDS
    session: int = SESSION_SECONDS
    pairs: int = MOST_PAIRS


@dataclass
class Yield:
    """What became of the messages of a log: read = kept + kinds + reasons + broken + repeated."""

    read: int = 0
    kept: int = 0
    conversations: int = 0
    answers: int = 0
    repeated: int = 0
    inline: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)

    def as_dict(self) -> dict[str, Any]:
        """For a manifest; the Counters as plain objects, the commonest first."""
        counters = {name: dict(getattr(self, name).most_common()) for name in ("kinds", "reasons", "broken")}
        names = ("read", "kept", "conversations", "answers", "repeated", "inline")
        return {**{name: getattr(self, name) for name in names}, **counters}

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Yield:
        """The report that ``as_dict`` told."""
        report = cls()
        for name, value in told.items():
            setattr(report, name, Counter(value) if isinstance(value, Mapping) else value)
        return report

    def lost(self) -> Counter[str]:
        """Messages that are in no sample, by reason; all that is no text is one reason."""
        lost = self.reasons + self.broken
        if self.kinds:
            lost["chatlog.not-text"] += self.kinds.total()
        return lost

    def text(self) -> str:
        """The report in Chinese, a line each: what was read, what it gave, what was dropped and why."""
        rows = [
            f"读了 {self.read} 条消息, 得到 {self.conversations} 段对话, {self.answers} 个回答, 用上 {self.kept} 条"
        ]
        if self.kinds:
            rows.append("不是文字: " + ", ".join(f"{kind} {count}" for kind, count in self.kinds.most_common()))
        for reason, count in (self.reasons + self.broken).most_common():
            rows.append(f"没用上 {count} 条: {REASONS.get(reason, reason)} ({reason})")
        if self.repeated:
            rows.append(f"重复导出 {self.repeated} 条, 只用一次")
        if self.inline:
            rows.append(f"正文里去掉了 {self.inline} 个 [图片] [表情] 一类的占位符")
        if self.read and not self.conversations:
            rows.append(self.why_nothing())
        return "\n".join(rows)

    def why_nothing(self) -> str:
        """The three commonest reasons why there is no sample, and what helps."""
        common = [
            f"{REASONS.get(reason, reason)}: {count} 条 ({reason}). {ADVICE.get(reason, '')}".rstrip()
            for reason, count in self.lost().most_common(3)
        ]
        return f"{self.read} 条消息没有成为一个样本, 最常见的原因:" + "".join(f"\n  {line}" for line in common)


@dataclass
class _Turn:
    """What one side says before the other speaks."""

    is_mine: bool
    session: str
    said: list[Said] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)


@dataclass
class Talk:
    """The conversation that is being put together from one chat."""

    chat: str
    is_mine: Callable[[Said], bool]
    report: Yield
    windows: Windows = Windows()
    name_of: Callable[[Said], str] | None = None
    """The name in front of what others say; None where only one other speaks."""
    system: str | None = None
    turns: list[_Turn] = field(default_factory=list)
    session: str = ""
    last_time: int | None = None

    def take(self, messages: Iterable[Said]) -> Iterator[Conversation | Reject]:
        """The conversations of the messages, and a reject for all that is in none."""
        for said in messages:
            if self.last_time is None or said.time - self.last_time > self.windows.session:
                self.session = _digest(f"{self.chat}|{said.time}|{said.sender}")
            self.last_time = said.time
            if said.kind:
                yield from self._pass_over(said)
            else:
                yield from self._add(said)
        yield from self.end("chatlog.no-answer")

    def _pass_over(self, said: Said) -> Iterator[Conversation | Reject]:
        """Count a message without text; end the conversation where it cuts."""
        self.report.kinds[said.kind] += 1
        if said.cuts:
            yield from self.end("chatlog.cut")
        detail = f"{said.kind}: 不是能学的文字" + (", 对话在这里断开" if said.cuts else "")
        yield Reject(source=said.place, reason="chatlog.not-text", detail=detail, record={"kind": said.kind})

    def _add(self, said: Said) -> Iterator[Conversation | Reject]:
        """Put a text where it belongs: to its run, after it, or into a new conversation."""
        self.report.inline += said.inline
        is_mine = self.is_mine(said)
        turn = self.turns[-1] if self.turns else None
        last = turn.said[-1] if turn else said
        is_same = (is_mine and turn is not None and turn.is_mine) or said.sender == last.sender
        if turn and said.time - last.time > (self.windows.merge if is_same else self.windows.pair):
            yield from self.end("chatlog.late-answer" if is_mine and not turn.is_mine else "chatlog.no-answer")
        elif turn and turn.is_mine and self._is_full(len(turn.said) if is_mine else 0):
            yield from self.end("chatlog.no-answer")
        turn = self.turns[-1] if self.turns else None
        if turn is None or turn.is_mine != is_mine:
            turn = _Turn(is_mine, self.session)
            self.turns.append(turn)
        is_run = bool(turn.said) and (is_mine or turn.said[-1].sender == said.sender)
        turn.said.append(said)
        turn.lines.append(said.text if is_run or is_mine or not self.name_of else f"{self.name_of(said)}: {said.text}")
        if not is_mine and len(turn.said) >= 2 * MOST_BEFORE:
            yield from self._forget(turn)

    def _is_full(self, in_turn: int) -> bool:
        """Whether an answer of so many messages, or the pairs before a new question, are all that a sample holds."""
        return in_turn >= MOST_IN_TURN if in_turn else len(self.turns) >= 2 * self.windows.pairs

    def _forget(self, turn: _Turn) -> Iterator[Conversation | Reject]:
        """Begin anew with the last ``MOST_BEFORE`` messages of a long talk of others."""
        kept, lines = turn.said[MOST_BEFORE:], turn.lines[MOST_BEFORE:]
        del turn.said[MOST_BEFORE:], turn.lines[MOST_BEFORE:]
        yield from self.end("chatlog.no-answer")
        if self.name_of and lines[0] == kept[0].text:
            lines[0] = f"{self.name_of(kept[0])}: {lines[0]}"
        self.turns.append(_Turn(False, turn.session, kept, lines))

    def end(self, reason: str) -> Iterator[Conversation | Reject]:
        """The conversation so far, if it has an answer; ``reason``: why a last question has none."""
        turns, self.turns = self.turns, []
        if turns and turns[0].is_mine:
            yield self._lost(turns.pop(0), "chatlog.no-question")
        tail = turns.pop() if turns and not turns[-1].is_mine else None
        if turns:
            self.report.kept += sum(len(turn.said) for turn in turns)
            self.report.conversations += 1
            self.report.answers += len(turns) // 2
            yield self._conversation(turns)
        if tail:
            yield self._lost(tail, reason)

    def _conversation(self, turns: list[_Turn]) -> Conversation:
        """The turns as messages; everything of the user's own is learned."""
        messages = [Message(role="system", text=self.system)] if self.system else []
        messages += [
            Message(role="assistant" if turn.is_mine else "user", text="\n".join(turn.lines)) for turn in turns
        ]
        meta = {"session": turns[0].session, "chat": _digest(self.chat)}
        return Conversation(messages=tuple(messages), source=turns[0].said[0].place, meta=meta)

    def _lost(self, turn: _Turn, reason: str) -> Reject:
        """A turn that is in no sample."""
        count = len(turn.said)
        self.report.reasons[reason] += count
        detail = f"{REASONS[reason]} ({count} 条)"
        return Reject(source=turn.said[0].place, reason=reason, detail=detail, record={"messages": turn.lines})


def _digest(text: str) -> str:
    """16 hexadecimal digits in the place of a name that nobody needs to read."""
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).hexdigest()
