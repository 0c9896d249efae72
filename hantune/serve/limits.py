"""How many requests are in the house at a time, in all and under one key."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator

from hantune.serve.errors import ApiError

LONGEST_WAIT = 60
"""Seconds; a client that is told more gives up."""


class Places:
    """Room for requests. One that finds none is told at once, and when to come back."""

    def __init__(self, total: int, per_key: int | None = None) -> None:
        self.total = total
        self.per_key = total if per_key is None else per_key
        self.taken: Counter[str] = Counter()

    @contextlib.contextmanager
    def place(self, owner: str, *, wait: int = 1) -> Iterator[None]:
        """A place for the time of a request of ``owner``; ``wait``: seconds after which it is worth another try.

        Raises: ApiError 429.
        """
        again = {"retry-after": str(wait)}
        if self.taken[owner] >= self.per_key:
            message = f"这个密钥同时只能有 {self.per_key} 个请求, 等前面的答完再发"
            raise ApiError(429, message, code="too_many_requests", headers=again)
        if self.taken.total() >= self.total:
            raise ApiError(429, "请求太多, 已经排满, 稍后再试", code="queue_full", headers=again)
        self.taken[owner] += 1
        try:
            yield
        finally:
            self.taken[owner] -= 1
            if not self.taken[owner]:
                del self.taken[owner]


def retry_after(waiting: int, at_once: int, seconds_each: float) -> int:
    """Whole seconds until the queue has moved, from how many wait and how long an answer takes."""
    return max(1, min(LONGEST_WAIT, round((waiting / at_once + 1) * seconds_each)))
