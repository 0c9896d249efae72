"""What a prompt template is: messages in, segments with learn bits out. The mask is decided here and nowhere else.

A segment is encoded apart from its neighbours, so a template also decides where tokens may not merge: an answer is
always a segment of its own, whether it is learned or not. That is what makes the ids of a serving prompt a prefix of
the ids that were trained on.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from hantune.data.types import Message, Rendered, Segment
from hantune.errors import DataError


@dataclass(frozen=True, kw_only=True, slots=True)
class Marks:
    """The special texts of one tokenizer.

    ``bos`` and ``eos`` are '' where the tokenizer has none or adds none by itself (BLOOM has a ``<s>`` and never uses
    it). ``specials`` are all texts that stand for one control token; ``variables`` is what a Jinja chat template may
    ask for by name (``bos_token`` ...).
    """

    bos: str = "<s>"
    eos: str = "</s>"
    specials: tuple[str, ...] = ()
    variables: tuple[tuple[str, str], ...] = ()


class Turn(NamedTuple):
    """A question and its answer; ``answer`` is None in the last turn of a serving prompt."""

    question: str
    answer: Message | None


class Script:
    """Collects segments: context runs on, a control token and an answer stand alone."""

    def __init__(self) -> None:
        self._segments: list[Segment] = []
        self._context = ""

    def context(self, text: str) -> None:
        """Text that is read and not learned."""
        self._context += text

    def control(self, text: str, *, learn: bool = False) -> None:
        """One special token; '' (the tokenizer has none) writes nothing."""
        self._flush()
        if text:
            self._segments.append(Segment(text, learn, control=True))

    def answer(self, text: str, *, learn: bool, end: str) -> None:
        """An answer and the token that ends it: both learned or neither, so that the model learns to stop."""
        self._flush()
        if text:
            self._segments.append(Segment(text, learn))
        self.control(end, learn=learn)

    def _flush(self) -> None:
        if self._context:
            self._segments.append(Segment(self._context, learn=False))
            self._context = ""

    def segments(self) -> tuple[Segment, ...]:
        """All that was written."""
        self._flush()
        return tuple(self._segments)


@dataclass(frozen=True, kw_only=True)
class Template(ABC):
    """Renders a conversation.

    Messages that end with an assistant give the training text; messages that end with a user give the serving prompt.
    Law: the segments of ``render(m[:k])`` are the first segments of ``render(m)``, for every k that ends with a user.

    ``system`` is put before conversations that have no system message; a system message of '' keeps it away.
    """

    name: str
    system: str | None = None
    turns_on: ClassVar[tuple[str, ...] | None] = None
    """Texts that change the words around a message; None where anything may (Jinja). With a tuple, messages without
    these texts and without blanks around them are rendered as constants and themselves (``bulk.py`` needs that)."""

    @abstractmethod
    def render(self, messages: Sequence[Message], marks: Marks) -> Rendered:
        """Segments and stop strings.

        Raises: DataError ``template.roles`` for an order that the template cannot show.
        """

    @property
    @abstractmethod
    def text(self) -> str:
        """A text that changes when the rendering changes (kept in the adapter, hashed into the token cache)."""

    @property
    def chat_template(self) -> str | None:
        """The Jinja source of the same rendering, without the default system prompt; None where there is none."""
        return None

    @property
    def jinja(self) -> str | None:
        """The Jinja source of the same rendering, for programs that read ``chat_template.jinja``."""
        source = self.chat_template
        if source is None or not self.system:
            return source
        default = f"[{{'role': 'system', 'content': {json.dumps(self.system, ensure_ascii=False)}}}]"
        absent = "not messages or messages[0]['role'] != 'system'"
        return f"{{%- if {absent} %}}{{% set messages = {default} + messages %}}{{% endif %}}{source}"

    def jinja_for(self, marks: Marks) -> str | None:
        """``jinja`` for one tokenizer: without ``bos_token`` where the tokenizer does not use it (BLOOM)."""
        source = self.jinja
        return source if source is None or marks.bos else source.replace("{{ bos_token }}", "")


@dataclass(frozen=True, kw_only=True)
class TurnTemplate(Template):
    """A template of questions and answers; a subclass only writes them down."""

    @abstractmethod
    def write(self, script: Script, system: str, turns: Sequence[Turn], marks: Marks) -> None:
        """Write the whole conversation; ``system`` is '' where there is none."""

    def stops(self, marks: Marks) -> tuple[str, ...]:
        """Texts at which generation ends, the terminator of an answer first."""
        return (marks.eos,) if marks.eos else ()

    def render(self, messages: Sequence[Message], marks: Marks) -> Rendered:
        system, turns = as_turns(messages)
        script = Script()
        self.write(script, (self.system or "") if system is None else system, turns, marks)
        return Rendered(segments=script.segments(), stops=self.stops(marks))

    @property
    def text(self) -> str:
        """What the template makes of placeholders, learned parts in 【】, and the stops, with ``%%`` between them."""
        return specimen_text(self, SPECIMENS)


def as_turns(messages: Sequence[Message]) -> tuple[str | None, list[Turn]]:
    """The system text (None: no system message) and the turns.

    Raises: DataError ``template.roles`` unless it is an optional system, then user and assistant in turn.
    """
    system = messages[0].text if messages and messages[0].role == "system" else None
    rest = messages if system is None else messages[1:]
    wrong = next((i for i, m in enumerate(rest) if m.role != ("user", "assistant")[i % 2]), None)
    if wrong is not None or not rest:
        order = " ".join(message.role for message in messages) or "(空)"
        is_text = bool(rest) and all(message.role == "assistant" for message in rest)
        mend = "用 hantune data prepare 重新整理数据, 它会切开或去掉这样的对话"
        raise DataError(
            "template.roles",
            f"对话的顺序不对: {order}; 应当是可选的 system, 然后 user 和 assistant 轮流",
            hint="这是没有问答的文字: 用 --template plain (训练时 template.name=plain)" if is_text else mend,
        )
    answers: list[Message | None] = [*rest[1::2], None]
    return system, [Turn(question.text, answer) for question, answer in zip(rest[::2], answers, strict=False)]


def first_difference(left: Sequence[object], right: Sequence[object]) -> int:
    """The first index at which two sequences differ; the length of the shorter where it begins the longer."""
    differing = (i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b)
    return next(differing, min(len(left), len(right)))


def _specimen(*texts: str) -> tuple[Message, ...]:
    """Messages whose roles are read off their placeholder texts."""
    roles = {"s": "system", "u": "user", "a": "assistant"}
    return tuple(Message(role=roles[text[1]], text=text) for text in texts)  # type: ignore[arg-type]


SPECIMENS = (
    _specimen("{user1}", "{answer1}", "{user2}", "{answer2}"),
    _specimen("{system}", "{user1}", "{answer1}"),
)


def specimen_text(template: Template, specimens: Sequence[Sequence[Message]]) -> str:
    """The renderings of ``specimens`` with ``<s>`` and ``</s>``, learned parts in 【】, then the stop strings."""
    rendered = [template.render(messages, Marks()) for messages in specimens]
    lines = ["".join(f"【{s.text}】" if s.learn else s.text for s in each.segments) for each in rendered]
    return "\n%%\n".join([*(line.replace("】【", "") for line in lines), "stops: " + " ".join(rendered[0].stops)])
