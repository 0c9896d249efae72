"""One answer in progress: the tokens it has, the text that is certain, and why it ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from hantune.infer.sample import LogProbs, Sampler, SamplingParams
from hantune.infer.stream import TextStream

FinishReason = Literal["stop", "length"]


class Scored(NamedTuple):
    """A token with the logarithms of its probability and of the likeliest ones'."""

    id: int
    value: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True, kw_only=True)
class Completion:
    """One answer. ``ids`` are its tokens without the stop token; ``stop``: it ended by itself, ``length``: cut off."""

    text: str
    ids: tuple[int, ...]
    finish_reason: FinishReason
    prompt_tokens: int

    @property
    def usage(self) -> dict[str, int]:
        """Token counts in OpenAI's words."""
        return usage(self.prompt_tokens, len(self.ids))


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """Token counts in OpenAI's words."""
    total = prompt_tokens + completion_tokens
    return {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens, "total_tokens": total}


class Lane:
    """One answer in progress; ``room``: the most tokens it may have."""

    def __init__(
        self, prompt: Sequence[int], room: int, stop_ids: frozenset[int], stream: TextStream, params: SamplingParams
    ) -> None:
        self.prompt = list(prompt)
        self.params = params
        self.sampler = Sampler(params, self.prompt)
        self.ids: list[int] = []
        self.scores: list[Scored] = []
        self.finish_reason: FinishReason | None = None
        self.cached_tokens = 0
        self._texts: list[str] = []
        self._told = 0
        self._room = room
        self._stop_ids = stop_ids
        self._stream = stream

    @property
    def last(self) -> int:
        """The token that the model reads next."""
        return self.ids[-1] if self.ids else self.prompt[-1]

    def take(self, token: int, scores: LogProbs | None = None) -> None:
        """One more token: text, or the end."""
        if token in self._stop_ids:
            self._end("stop")
            return
        self.ids.append(token)
        if scores is not None:
            self.scores.append(Scored(token, scores.chosen, scores.top))
        if text := self._stream.feed(token):
            self._texts.append(text)
        if self._stream.stopped:
            self._end("stop")
        elif len(self.ids) == self._room:
            self._end("length")

    def _end(self, reason: FinishReason) -> None:
        self.finish_reason = reason
        self._texts.append(self._stream.finish())

    def news(self) -> str:
        """The text that became certain since the last call."""
        text = "".join(self._texts[self._told :])
        self._told = len(self._texts)
        return text

    def completion(self) -> Completion:
        return Completion(
            text="".join(self._texts),
            ids=tuple(self.ids),
            finish_reason=self.finish_reason or "length",
            prompt_tokens=len(self.prompt),
        )
