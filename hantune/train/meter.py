"""How fast a run goes: real (unpadded) tokens over wall time."""

from __future__ import annotations

import time
from collections import deque


class Meter:
    """Tokens per second over the last steps and over the whole run."""

    def __init__(self, window: int = 20) -> None:
        self._recent: deque[tuple[int, float]] = deque(maxlen=window)
        self._mark = time.monotonic()
        self.tokens = 0
        self.seconds = 0.0

    def start(self) -> None:
        """Begin a step; time between steps (evaluation, saving) does not count."""
        self._mark = time.monotonic()

    def stop(self, tokens: int) -> float:
        """End a step that trained ``tokens`` real tokens; returns its seconds."""
        seconds = time.monotonic() - self._mark
        self._recent.append((tokens, seconds))
        self.tokens += tokens
        self.seconds += seconds
        return seconds

    @property
    def tokens_per_second(self) -> float:
        """Over the last steps."""
        seconds = sum(item[1] for item in self._recent)
        return sum(item[0] for item in self._recent) / seconds if seconds else 0.0
