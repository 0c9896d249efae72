"""What a scheduled answer tells its reader, and the stream through which it tells it, across threads."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Literal, NamedTuple

from hantune.errors import HantuneError
from hantune.infer.lane import usage

EndReason = Literal["stop", "length", "cancelled", "error"]


class Logprob(NamedTuple):
    """A token, its bytes and the logarithm of its probability; ``top``: the likeliest ones, likewise."""

    id: int
    piece: bytes
    value: float
    top: tuple[tuple[int, bytes, float], ...]


@dataclass(frozen=True, kw_only=True)
class Token:
    """More of an answer: whole characters. ``text`` is '' only where logprobs were asked for or a character is torn."""

    text: str
    ids: tuple[int, ...] = ()
    logprobs: tuple[Logprob, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Done:
    """The end of an answer; nothing follows. ``cached_tokens``: of the prompt, those that were not computed again."""

    finish_reason: EndReason
    prompt_tokens: int
    completion_tokens: int = 0
    cached_tokens: int = 0
    error: HantuneError | None = None

    @property
    def usage(self) -> dict[str, int]:
        """Token counts in OpenAI's words."""
        return usage(self.prompt_tokens, self.completion_tokens)


Event = Token | Done


class Stream:
    """One answer, for one reader: iterate it, in a thread or in an event loop. A slow reader holds nobody up."""

    def __init__(self, number: int, prompt_tokens: int) -> None:
        self.id = number
        self.prompt_tokens = prompt_tokens
        self.submitted_at = time.monotonic()
        self._events: deque[Event] = deque()
        self._there = threading.Condition()
        self._is_read = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._bell: asyncio.Event | None = None

    def put(self, event: Event) -> None:
        """One more event; the scheduler's side."""
        with self._there:
            self._events.append(event)
            self._there.notify_all()
            loop, bell = self._loop, self._bell
        if loop is not None and bell is not None:
            with contextlib.suppress(RuntimeError):  # a loop that was closed has no reader
                loop.call_soon_threadsafe(bell.set)

    def get(self, timeout: float | None = None) -> Event:
        """The next event, after at most ``timeout`` seconds.

        Raises: queue.Empty when none came in time, or none will ever come.
        """
        with self._there:
            if not self._there.wait_for(lambda: self._events or self._is_read, timeout) or not self._events:
                raise queue.Empty
            return self._pop()

    def _pop(self) -> Event:
        event = self._events.popleft()
        self._is_read = isinstance(event, Done)
        return event

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> Event:
        try:
            return self.get()
        except queue.Empty:
            raise StopIteration from None

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Event:
        with self._there:
            if self._loop is None:
                self._loop, self._bell = asyncio.get_running_loop(), asyncio.Event()
        assert self._bell is not None
        while True:
            self._bell.clear()
            with self._there:
                if self._events:
                    return self._pop()
                if self._is_read:
                    raise StopAsyncIteration
            await self._bell.wait()

    def result(self) -> tuple[str, Done]:
        """The whole text and how it ended; waits for the end."""
        texts: list[str] = []
        for event in self:
            if isinstance(event, Done):
                return "".join(texts), event
            texts.append(event.text)
        raise queue.Empty


class Histogram:
    """How often a quantity fell between bounds, and its sum."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = (0,) * (len(bounds) + 1)
        self.sum = 0.0

    def seen(self, value: float) -> None:
        place = sum(value > bound for bound in self.bounds)
        self.counts = (*self.counts[:place], self.counts[place] + 1, *self.counts[place + 1 :])
        self.sum += value
