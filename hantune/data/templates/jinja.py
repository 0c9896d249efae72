"""Any Jinja chat template: the answers are found by rendering, not by knowing the format.

The template is rendered with sentinels in the place of the contents, so contents are never read as control tokens.
An answer begins where the generation prompt of the messages before it ends, and ends with the first control token
after its content (what follows, such as a newline, is never generated). ``{% generation %}`` blocks, where a template
has them, say it themselves. The layout depends on the order of roles only, so it is made once for each order; each
conversation is then rendered once to prove that the filled layout is the template's own text. Where it is not (the
template looks into contents), the conversation is laid out by itself.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

from hantune.data.templates.base import Marks, Template, as_turns, first_difference
from hantune.data.templates.sandbox import SPAN_END, SPAN_START, compile_template, run_template
from hantune.data.types import Message, Rendered, Segment
from hantune.errors import RefusedError

OPEN, CLOSE = "\U0010fff2", "\U0010fff3"
HIDDEN = 0x100000
"""Private-use characters from plane 16: sentinels around a message's number, and stand-ins for control texts that a
user typed. No text carries them; where one does, they are dropped."""
OURS = re.compile(f"[{chr(HIDDEN)}-\U0010fffd]")
SENTINEL = re.compile(f"(\t?){OPEN}(\\d+){CLOSE}(\t?)")
GENERATION = re.compile(r"\{%(-?)\s*(end)?generation\s*(-?)%\}")


class Span(NamedTuple):
    """A part of the rendered text that belongs to the answer ``message`` (its index), learned or merely apart."""

    start: int
    end: int
    message: int
    is_answer: bool = True


class Layout(NamedTuple):
    """A rendering: ``text``, its answer spans in order, and the answers shown in two ways (as expected, as shown)."""

    text: str
    spans: tuple[Span, ...]
    unstable: dict[int, tuple[str, str]]


class Piece(NamedTuple):
    """A segment to be filled: ``parts`` alternates literal text and (message index, left strip, right strip)."""

    parts: tuple[Any, ...]
    message: int | None
    control: bool


@dataclass(frozen=True, kw_only=True)
class JinjaTemplate(Template):
    """The chat template that a model ships."""

    source: str
    _stops_of: dict[Any, tuple[str, ...]] = field(default_factory=dict, init=False, compare=False, repr=False)
    _shapes: dict[Any, tuple[Layout, list[Piece]]] = field(default_factory=dict, init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        compile_template(self.source)

    @property
    def text(self) -> str:
        return self.source

    @property
    def chat_template(self) -> str:
        """Without ``{% generation %}``, which most other programs cannot read; the blanks stay as they were."""
        return GENERATION.sub(lambda tag: f"{{%{tag[1]} {'endif' if tag[2] else 'if true'} {tag[3]}%}}", self.source)

    def render(self, messages: Sequence[Message], marks: Marks) -> Rendered:
        """Segments and stop strings.

        Raises: DataError ``template.roles``; RefusedError ``template.not-prefix-stable`` when an answer that is to be
            learned is shown otherwise, or after another prompt, than it would be generated; RefusedError
            ``template.jinja-error`` when the template refuses.
        """
        as_turns(messages)
        asked = self._with_system(messages)
        contents = [OURS.sub("", message.text) for message in asked]
        roles = tuple(message.role for message in asked)
        shape = (roles, tuple(not content for content in contents), marks)
        if shape not in self._shapes:
            # The tabs tell whether the template strips a content: they are gone then.
            sentinels = [f"\t{OPEN}{i}{CLOSE}\t" if content else "" for i, content in enumerate(contents)]
            layout = self._layout(roles, sentinels, marks)
            self._shapes[shape] = layout, _pieces(layout, marks.specials)
        layout, pieces = self._shapes[shape]
        filled = _fill(pieces, contents)
        if "".join(filled) != self._run(roles, contents, marks)[0]:
            hidden = [_hide(content, marks.specials) for content in contents]
            layout = self._layout(roles, hidden, marks)
            pieces = _pieces(layout, marks.specials)
            filled = [_reveal(text, marks.specials) for text in _fill(pieces, contents)]
        learned = _learned_messages(asked, layout)
        segments = (
            Segment(text, piece.message in learned, piece.control)
            for text, piece in zip(filled, pieces, strict=True)
            if text
        )
        return Rendered(segments=tuple(segments), stops=self._stops(roles, marks))

    def _with_system(self, messages: Sequence[Message]) -> list[Message]:
        """The messages with the default system prompt; an empty system message is left out."""
        has_system = bool(messages) and messages[0].role == "system"
        rest = list(messages[1:] if has_system and not messages[0].text else messages)
        default = [Message(role="system", text=self.system)] if self.system and not has_system else []
        return default + rest

    def _stops(self, roles: Sequence[str], marks: Marks) -> tuple[str, ...]:
        """The control text that ends an answer, and EOS: the same for all conversations, prompts included."""
        shape = (roles[0], marks)
        if shape not in self._stops_of:
            first = ["system", "user", "assistant"][roles[0] != "system" :]
            text = self._run(first, [f"{OPEN}{i}{CLOSE}" for i in range(len(first))], marks)[0]
            last = f"{OPEN}{len(first) - 1}{CLOSE}"
            found = _terminator(text, last, max(0, text.find(last)), marks.specials)
            self._stops_of[shape] = tuple(dict.fromkeys(filter(None, [found and found[0], marks.eos])))
        return self._stops_of[shape]

    def _run(self, roles: Sequence[str], contents: Sequence[str], marks: Marks) -> tuple[str, list[tuple[int, int]]]:
        """The rendered text and its ``{% generation %}`` spans; messages that end with a user give the prompt."""
        rendered = run_template(self.source, roles, contents, marks, add_generation_prompt=roles[-1] != "assistant")
        if SPAN_START not in rendered:
            return rendered, []
        text, spans = "", []
        for number, part in enumerate(re.split(f"[{SPAN_START}{SPAN_END}]", rendered)):
            if number % 2:
                spans.append((len(text), len(text) + len(part)))
            text += part
        return text, spans

    def _layout(self, roles: Sequence[str], contents: Sequence[str], marks: Marks) -> Layout:
        """Where the answers lie, found by rendering every beginning of the conversation."""
        text, generated = self._run(roles, contents, marks)
        spans: list[Span] = []
        unstable: dict[int, tuple[str, str]] = {}
        for index in (i for i, role in enumerate(roles) if role == "assistant" and i):
            prompt = self._run(roles[:index], contents[:index], marks)[0]
            turn, turn_generated = self._run(roles[: index + 1], contents[: index + 1], marks)
            if not turn.startswith(prompt):
                unstable[index] = (prompt, turn)
                continue
            found = _terminator(turn, contents[index], len(prompt), marks.specials)
            end = found.end() if found else len(turn)
            if not text.startswith(turn[:end]):
                unstable[index] = (turn[:end], text)
                continue
            if generated:
                spans += _generation_spans(turn_generated, Span(len(prompt), end, index), found)
            else:
                spans.append(Span(len(prompt), end, index))
        return Layout(text, tuple(spans), unstable)


def _generation_spans(generated: Sequence[tuple[int, int]], turn: Span, found: re.Match[str] | None) -> list[Span]:
    """The marked parts of one answer, and what lies before them; the terminator belongs to the part it follows."""
    spans: list[Span] = []
    cursor = turn.start
    for start, end in ((max(start, cursor), end) for start, end in generated):
        if end <= start:
            continue
        if found and end <= found.start() and not found.string[end : found.start()].strip():
            end = found.end()
        spans += [Span(cursor, start, turn.message, is_answer=False), Span(start, end, turn.message)]
        cursor = end
    return [span for span in spans if span.start < span.end]


def _terminator(turn: str, content: str, start: int, specials: tuple[str, ...]) -> re.Match[str] | None:
    """The first control text after the content (its last words) of the answer that begins at ``start``."""
    found = list(_pattern(specials).finditer(turn, start))
    tail = content.strip()[-40:]
    return next((each for each in found if tail in turn[start : each.start()]), found[0] if found else None)


def _learned_messages(messages: Sequence[Message], layout: Layout) -> set[int]:
    """The indices of the answers to learn.

    Raises: RefusedError ``template.not-prefix-stable``.
    """
    learned = {i for i, message in enumerate(messages) if message.role == "assistant" and message.is_learned}
    is_prompt = messages[-1].role != "assistant"
    for index in sorted(() if is_prompt else learned & layout.unstable.keys()):
        expected, shown = layout.unstable[index]
        at = first_difference(expected, shown)
        raise RefusedError(
            "template.not-prefix-stable",
            f"这个聊天模板在训练时和服务时写得不一样: 第 {index + 1} 条消息, "
            f"服务时是 {_excerpt(expected, at)!r}, 训练时是 {_excerpt(shown, at)!r}",
            hint='只学最后一个回答 (给前面的回答写 "learn": false), 或只留一轮 data.max_turns=1, '
            "或换一个模板 template.name=chatml",
        )
    return learned


def _excerpt(text: str, at: int) -> str:
    """A few characters around a place, contents shown as dots."""
    return OURS.sub("", SENTINEL.sub("...", text[max(0, at - 12) :])[:32])


@lru_cache(maxsize=16)
def _pattern(specials: tuple[str, ...]) -> re.Pattern[str]:
    """A pattern for any control text, the longest first; it finds nothing where there is none."""
    return re.compile("|".join(map(re.escape, sorted(filter(None, specials), key=len, reverse=True))) or "(?!)")


def _pieces(layout: Layout, specials: tuple[str, ...]) -> list[Piece]:
    """The layout as segments: cut at the borders of answers and around control texts."""
    pieces: list[Piece] = []
    cursor = 0
    controls = _pattern(specials)
    for span in (*layout.spans, Span(len(layout.text), len(layout.text), -1)):
        for start, end, message in ((cursor, span.start, None), (span.start, span.end, span.message)):
            learned = message if span.is_answer else None
            pieces += _cut(layout.text[start:end], learned, controls)
        cursor = span.end
    return pieces


def _cut(text: str, message: int | None, controls: re.Pattern[str]) -> list[Piece]:
    """Text without control tokens and control tokens, in turn."""
    pieces: list[Piece] = []
    cursor = 0
    for found in controls.finditer(text):
        pieces += [Piece(_parts(text[cursor : found.start()]), message, control=False)]
        pieces += [Piece((found[0],), message, control=True)]
        cursor = found.end()
    pieces.append(Piece(_parts(text[cursor:]), message, control=False))
    return [piece for piece in pieces if piece.parts != ("",)]


def _parts(text: str) -> tuple[Any, ...]:
    """Literal text and the contents to be filled in, with whether their blanks are stripped left and right."""
    split = SENTINEL.split(text)
    parts: list[Any] = [split[0]]
    for left, number, right, literal in zip(split[1::4], split[2::4], split[3::4], split[4::4], strict=True):
        parts += [(int(number), not left, not right), literal]
    return tuple(parts)


def _fill(pieces: Sequence[Piece], contents: Sequence[str]) -> list[str]:
    """The text of each piece, with the contents in it."""
    return ["".join(part if isinstance(part, str) else _content(contents, *part) for part in p.parts) for p in pieces]


def _content(contents: Sequence[str], index: int, left: bool, right: bool) -> str:
    text = contents[index]
    text = text.lstrip() if left else text
    return text.rstrip() if right else text


def _hide(content: str, specials: tuple[str, ...]) -> str:
    """``content`` with each control text in it as one private-use character."""
    return _pattern(specials).sub(lambda found: chr(HIDDEN + specials.index(found[0])), content)


def _reveal(text: str, specials: Sequence[str]) -> str:
    """The inverse of ``_hide``."""
    return OURS.sub(lambda found: specials[ord(found[0]) - HIDDEN], text)
