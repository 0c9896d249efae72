"""Conversations to examples that fit: whole turns are left out from the end, and only a first turn alone is cut.

A sample that is cut inside an answer has lost its terminator with it, so nothing false is learned as an end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from hantune.data.templates.base import Template
from hantune.data.tokens import Encoder, cut
from hantune.data.types import Conversation, Example, Message, Rendered
from hantune.errors import HantuneError

NOTHING_LEFT = "tokens.nothing-left"
"""Why a conversation became no example: no learned token is left within ``max_tokens``."""


class Fitted(NamedTuple):
    """What became of a conversation.

    ``example`` is None when nothing learned is left; ``messages`` and ``rendered`` are what it was made of.
    ``characters``: those of its learned text. ``length``: tokens of the whole conversation. ``answers``: learned
    answers in it, of which ``lost`` are cut or left out.
    """

    example: Example | None
    messages: tuple[Message, ...] = ()
    rendered: Rendered | None = None
    characters: int = 0
    length: int = 0
    answers: int = 0
    lost: int = 0


class _Candidate(NamedTuple):
    """The first ``turns`` answers of a conversation, rendered and encoded."""

    turns: int
    rendered: Rendered
    example: Example


def fit(conversation: Conversation, template: Template, encoder: Encoder, max_tokens: int) -> Example | None:
    """The example of a conversation in at most ``max_tokens`` tokens; None when nothing learned is left.

    Raises: what ``Template.render`` raises, with the conversation's source as its place.
    """
    return fit_many([conversation], template, encoder, max_tokens=max_tokens)[0].example


def fit_many(
    conversations: Sequence[Conversation],
    template: Template,
    encoder: Encoder,
    *,
    max_tokens: int,
    max_turns: int | None = None,
) -> list[Fitted]:
    """What ``fit`` gives, for many conversations at once; ``max_turns`` keeps only the first so many answers."""
    trimmed = [trim_turns(conversation.messages, max_turns) for conversation in conversations]
    kept = [number for number, messages in enumerate(trimmed) if messages]
    rendered = [_render(template, encoder, trimmed[number], conversations[number].source) for number in kept]
    examples = encoder.encode_many(rendered, [conversations[number].source for number in kept])
    results = [Fitted(None)] * len(conversations)
    for number, text, example in zip(kept, rendered, examples, strict=True):
        whole = _Candidate(_num_answers(trimmed[number]), text, example)
        best = whole
        if len(example.ids) > max_tokens:
            best = _longest(trimmed[number], template, encoder, max_tokens, example.source)
        results[number] = _fitted(trimmed[number], whole, best, encoder, max_tokens)
    return results


def trim_turns(messages: Sequence[Message], max_turns: int | None) -> tuple[Message, ...]:
    """The messages up to the last answer, or up to answer ``max_turns``; empty where there is no answer."""
    ends = [index + 1 for index, message in enumerate(messages) if message.role == "assistant"]
    return tuple(messages[: ends[: max_turns or None][-1]]) if ends else ()


def _longest(
    messages: Sequence[Message], template: Template, encoder: Encoder, max_tokens: int, source: str
) -> _Candidate:
    """The most whole turns that fit (found by bisection: more turns are never shorter); one turn if none fits."""

    def candidate(turns: int) -> _Candidate:
        rendered = _render(template, encoder, trim_turns(messages, turns), source)
        return _Candidate(turns, rendered, encoder.encode(rendered, source=source))

    best = candidate(1)
    low, high = 1, _num_answers(messages) - 1
    while low < high:
        middle = (low + high + 1) // 2
        tried = candidate(middle)
        if len(tried.example.ids) <= max_tokens:
            best, low = tried, middle
        else:
            high = middle - 1
    return best


def _fitted(
    messages: Sequence[Message], whole: _Candidate, best: _Candidate, encoder: Encoder, max_tokens: int
) -> Fitted:
    """The example of the turns that are kept, and what was lost."""
    answers = [message.is_learned for message in messages if message.role == "assistant"]
    example = cut(best.example, max_tokens)
    lost = sum(answers[best.turns :]) + (answers[best.turns - 1] if example.is_cut else 0)
    is_learned = any(example.mask)
    return Fitted(
        example=example if is_learned else None,
        messages=trim_turns(messages, best.turns),
        rendered=best.rendered,
        characters=_characters(best.rendered, example, encoder) if is_learned else 0,
        length=len(whole.example.ids),
        answers=sum(answers),
        lost=lost,
    )


def _characters(rendered: Rendered, example: Example, encoder: Encoder) -> int:
    """How many characters the learned answers have, without the blanks that the template puts around them."""
    if not example.is_cut:
        return sum(len(s.text.strip()) for s in rendered.segments if s.learn and not s.control)
    ids = [token for token, learn in zip(example.ids, example.mask, strict=True) if learn]
    return len(encoder.decode(ids).strip())


def _num_answers(messages: Sequence[Message]) -> int:
    return sum(message.role == "assistant" for message in messages)


def _render(template: Template, encoder: Encoder, messages: Sequence[Message], source: str) -> Rendered:
    """The rendered messages; an error says which sample it was."""
    try:
        return template.render(messages, encoder.marks)
    except HantuneError as error:
        error.place = error.place or source or None
        raise
