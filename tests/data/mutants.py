"""Templates with one planted fault each, for the rules that must find it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from hantune.data.templates import Marks
from hantune.data.templates.llama2 import Llama2
from hantune.data.types import Message, Rendered, Segment


class Mutant(Llama2):
    """Llama 2 with a planted fault; ``plant`` yields the segments anew."""

    def render(self, messages: Sequence[Message], marks: Marks) -> Rendered:
        rendered = super().render(messages, marks)
        return replace(rendered, segments=tuple(self.plant(rendered.segments, messages)))

    def plant(self, segments: Sequence[Segment], messages: Sequence[Message]) -> Iterator[Segment]:
        """The segments with the fault in them."""
        yield from segments


class ForgetsTerminator(Mutant):
    """The EOS is written and not learned."""

    def plant(self, segments: Sequence[Segment], messages: Sequence[Message]) -> Iterator[Segment]:
        yield from (segment._replace(learn=segment.learn and not segment.control) for segment in segments)


class LearnsNothing(Mutant):
    """The mask is all zero."""

    def plant(self, segments: Sequence[Segment], messages: Sequence[Message]) -> Iterator[Segment]:
        yield from (segment._replace(learn=False) for segment in segments)


class AddsNewline(Mutant):
    """The serving prompt has a newline that the training text does not have."""

    def plant(self, segments: Sequence[Segment], messages: Sequence[Message]) -> Iterator[Segment]:
        yield from segments
        if messages[-1].role == "user":
            yield Segment("\n", learn=False)


class EndsWithWords(Mutant):
    """The terminator is a text, which is also a stop string: nothing is wrong."""

    def plant(self, segments: Sequence[Segment], messages: Sequence[Message]) -> Iterator[Segment]:
        yield from (Segment("###", segment.learn) if segment.text == "</s>" else segment for segment in segments)

    def stops(self, marks: Marks) -> tuple[str, ...]:
        return ("###",)
