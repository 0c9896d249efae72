"""The check before the work: a loss mask or template that would teach the wrong thing does not start (promise 1).

Every sample is held against the rules of ``data/rules.py``. Refusals stop the run (exit 3) after all samples are
counted; warnings are shown. ``glance.py`` says which samples of a prepared part need no look of their own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from hantune.data.fit import NOTHING_LEFT, Fitted, fit_many, trim_turns
from hantune.data.rules import RULES, Level, Sample
from hantune.data.templates.base import Template, first_difference
from hantune.data.templates.jinja import JinjaTemplate
from hantune.data.tokens import Encoder
from hantune.data.types import Conversation, Message
from hantune.errors import HantuneError, RefusedError

CHUNK = 1024
COMPARED = 3
"""How many conversations of each shape are compared with the model's own chat template."""
SHAPES = 16
"""How many shapes (orders of roles) are compared so."""


@dataclass(kw_only=True)
class Finding:
    """A rule that some samples break: the first of them, what is wrong there, how many there are, what mends it."""

    code: str
    level: Level
    message: str
    place: str
    hint: str
    count: int = 1

    def __str__(self) -> str:
        more = f" (共 {self.count} 条)" if self.count > 1 else ""
        return f"{self.code}: {self.message}{more}, 位置 {self.place or '-'}; 办法: {self.hint}"


@dataclass(kw_only=True)
class CheckReport:
    """What the check saw: counts of samples, tokens and answers, and what it found."""

    template: str
    max_tokens: int
    samples: int = 0
    kept: int = 0
    tokens: int = 0
    learned: int = 0
    answers: int = 0
    lost_answers: int = 0
    unknown: int = 0
    findings: list[Finding] = field(default_factory=list)

    @property
    def learned_share(self) -> float:
        """Learned tokens among all tokens (0..1)."""
        return self.learned / self.tokens if self.tokens else 0.0

    @property
    def lost_share(self) -> float:
        """Answers that ``max_tokens`` cuts or leaves out, among all answers to be learned (0..1)."""
        return self.lost_answers / self.answers if self.answers else 0.0

    @property
    def warnings(self) -> list[str]:
        """The warnings, one text each."""
        return [str(finding) for finding in self.findings if finding.level == "warn"]

    def lines(self) -> list[str]:
        """The report for a terminal."""
        mean = self.tokens / self.kept if self.kept else 0
        lines = [
            f"模板 {self.template}: {self.samples} 条对话, 用上 {self.kept} 条",
            f"词元: {self.tokens} (每条 {mean:.1f}), 其中要学 {self.learned} ({self.learned_share:.1%})",
            f"要学的回答: {self.answers}, 被 max_tokens={self.max_tokens} 截断或去掉的: "
            f"{self.lost_answers} ({self.lost_share:.1%})",
        ]
        marks = {"refuse": "×", "warn": "!"}
        lines += [f"{marks[finding.level]} {finding}" for finding in self.findings]
        if not any(finding.level == "refuse" for finding in self.findings):
            lines.append("√ 每轮回答的结束符都在学习范围内, 提示都是训练文本的开头, 填充符不在其中")
        return lines

    def as_dict(self) -> dict[str, Any]:
        """The same for ``--json``."""
        names = ("template", "max_tokens", "samples", "kept", "tokens", "learned", "answers", "lost_answers", "unknown")
        return {
            **{name: getattr(self, name) for name in names},
            "learned_share": self.learned_share,
            "lost_share": self.lost_share,
            "findings": [vars(finding) for finding in self.findings],
        }


class Findings:
    """What was found so far, by code."""

    def __init__(self) -> None:
        self._by_code: dict[str, Finding] = {}

    def add(self, code: str, level: Level, message: str, place: str, hint: str) -> None:
        """The first sample gives the text, the others are counted."""
        if code in self._by_code:
            self._by_code[code].count += 1
        else:
            self._by_code[code] = Finding(code=code, level=level, message=message, place=place, hint=hint)

    @property
    def all(self) -> list[Finding]:
        """Refusals first, each kind in the order found."""
        return sorted(self._by_code.values(), key=lambda finding: finding.level != "refuse")


class Checking:
    """A check as it goes: samples in, totals and findings kept."""

    def __init__(
        self,
        encoder: Encoder,
        template: Template,
        *,
        max_tokens: int,
        max_turns: int | None = None,
        chat_template: str | None = None,
        is_explicit: bool = False,
    ) -> None:
        self.encoder = encoder
        self.template = template
        self.max_tokens = max_tokens
        self.max_turns = max_turns
        self.report = CheckReport(template=template.name, max_tokens=max_tokens)
        self.findings = Findings()
        self._own = JinjaTemplate(name="model", source=chat_template, system=template.system) if chat_template else None
        self._is_explicit = is_explicit
        self._compared: Counter[tuple[str, ...]] = Counter()
        self._first = ""

    def look(self, conversations: Sequence[Conversation]) -> list[Fitted]:
        """What became of each; every rule was held against it, and the model's own template against some."""
        fitted = fit_many(
            conversations, self.template, self.encoder, max_tokens=self.max_tokens, max_turns=self.max_turns
        )
        for conversation, each in zip(conversations, fitted, strict=True):
            self._first = self._first or conversation.source
            self._compare(conversation)
            _count(self.report, each, self.encoder)
            _judge(conversation.source, each, self.template, self.encoder, self.max_tokens, self.findings)
        return fitted

    def _compare(self, conversation: Conversation) -> None:
        """``template.mismatch`` where the model's own chat template renders a conversation otherwise."""
        shape = tuple(message.role for message in conversation.messages)
        is_known = self._compared[shape] > 0 or len(self._compared) < SHAPES
        messages = trim_turns(conversation.messages, None)
        if self._own is None or not messages or not is_known or self._compared[shape] >= COMPARED:
            return
        self._compared[shape] += 1
        difference = _difference(self.template, self._own, messages, self.encoder)
        if difference:
            level: Level = "warn" if self._is_explicit else "refuse"
            hint = "用模型自带的: template.name=auto; 确实要换, 就写明 template.name"
            self.findings.add("template.mismatch", level, difference, conversation.source, hint)

    def end(self) -> CheckReport:
        """The report.

        Raises: RefusedError with the code of the first refusal.
        """
        if self.report.samples and not self.report.kept:
            _nothing_left(self.report, self._first, self.findings)
        self.report.findings = self.findings.all
        _refuse(self.report)
        return self.report


def check_data(
    conversations: Iterable[Conversation], encoder: Encoder, template: Template, **settings: Any
) -> CheckReport:
    """What the samples are as tokens, and what is wrong with them short of a refusal.

    ``settings``: ``max_tokens``; ``max_turns``; ``chat_template``, the model's own, from which another one may differ
    only if the user named it (``is_explicit``).

    Raises: RefusedError with the code of the first rule that a sample breaks (``mask.*``, ``template.mismatch``,
        ``tokens.nothing-left``), after all samples are counted.
    """
    checking = Checking(encoder, template, **settings)
    stream = iter(conversations)
    while chunk := list(islice(stream, CHUNK)):
        checking.look(chunk)
    return checking.end()


def _count(report: CheckReport, fitted: Fitted, encoder: Encoder) -> None:
    """Add one conversation to the totals."""
    report.samples += 1
    report.answers += fitted.answers
    report.lost_answers += fitted.lost
    if fitted.example is None:
        return
    report.kept += 1
    report.tokens += len(fitted.example.ids)
    report.learned += sum(fitted.example.mask)
    if encoder.unknown_id is not None:
        report.unknown += fitted.example.ids.count(encoder.unknown_id)


def _judge(
    source: str, fitted: Fitted, template: Template, encoder: Encoder, max_tokens: int, findings: Findings
) -> None:
    """Hold every rule against one conversation. One that ``max_tokens`` leaves nothing of is only counted."""
    if fitted.example is None or fitted.rendered is None:
        if fitted.answers == 0 or fitted.length <= max_tokens:
            why = "没有一个要学的回答" if fitted.answers == 0 else "模板没有把任何回答标成要学的"
            hint = "去掉这条数据, 或检查它的 learn 标记" if fitted.answers == 0 else "换一个模板"
            findings.add("mask.nothing-learned", "refuse", f"这条样本里没有可学的东西: {why}", source, hint)
        return
    sample = Sample(fitted.example, fitted.messages, fitted.rendered, template, encoder)
    for rule in RULES:
        message = rule.find(sample)
        if message:
            findings.add(rule.code, rule.level, message, source, rule.hint)


def _difference(template: Template, own: JinjaTemplate, messages: Sequence[Message], encoder: Encoder) -> str | None:
    """Where the chosen template and the model's own part, or None."""
    ours = template.render(messages, encoder.marks).text
    try:
        theirs = own.render(messages, encoder.marks).text
    except HantuneError as error:
        return f"模板 {template.name} 和模型自带的聊天模板不同: 自带的不接受这段对话, {error.message}"
    if ours == theirs:
        return None
    at = first_difference(ours, theirs)
    return (
        f"模板 {template.name} 和模型自带的聊天模板从第 {at + 1} 个字起不同: "
        f"{ours[at : at + 24]!r}, 模型自带的是 {theirs[at : at + 24]!r}"
    )


def _nothing_left(report: CheckReport, source: str, findings: Findings) -> None:
    """``max_tokens`` leaves nothing to learn in any sample."""
    if not any(finding.level == "refuse" for finding in findings.all):
        message = f"没有一条样本在 {report.max_tokens} 个词元内留下要学的东西"
        findings.add(NOTHING_LEFT, "refuse", message, source, "调大 max_tokens: --max-tokens 或 data.max_tokens")


def _refuse(report: CheckReport) -> None:
    """Raise the first refusal; the others are named behind it."""
    refusals = [finding for finding in report.findings if finding.level == "refuse"]
    if not refusals:
        return
    first, *others = refusals
    share = f"; {report.samples} 条里有 {first.count} 条是这样"
    rest = f"; 另外还违反了 {', '.join(finding.code for finding in others)}" if others else ""
    raise RefusedError(first.code, first.message + share + rest, place=first.place or None, hint=first.hint)
