"""Work spread over processes, its results in the order of the work."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import islice
from multiprocessing import connection
from typing import Any, NamedTuple, TypeVar

from hantune.errors import HantuneError

Item = TypeVar("Item")
Result = TypeVar("Result")
AHEAD = 3
"""Items a worker may be ahead of the results that were taken."""
LOADED = ["hantune.data.blocks", "hantune.data.store"]
"""The modules whose work is spread."""
_function: Callable[[Any], Any]


def cores() -> int:
    """How many cores this process may use."""
    allowed = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed else os.cpu_count() or 1


class _Failure(NamedTuple):
    """An error on its way from another process."""

    kind: type[HantuneError]
    code: str
    message: str
    place: str | None
    hint: str | None

    def error(self) -> HantuneError:
        return self.kind(self.code, self.message, place=self.place, hint=self.hint)


def _method() -> Any:
    """How processes are begun: forked from one that has loaded ``LOADED`` and has no threads, else spawned.

    A fork of this process, which has threads, may hang.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    method = multiprocessing.get_context("forkserver")
    method.set_forkserver_preload(LOADED)
    return method


@contextlib.contextmanager
def ordered_map(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int
) -> Iterator[Iterator[Result]]:
    """``map(function, items)`` by that many processes; with one or none, here. Items are taken as they are needed.

    This process is one of them. ``function`` is sent to each other one once, so it may be an object with large tables.
    They end with this one, however it ends.
    """
    if workers <= 1:
        yield map(function, items)
        return
    pool = ProcessPoolExecutor(workers - 1, mp_context=_method(), initializer=_begin, initargs=(function,))
    try:
        yield _results(pool, function, iter(items), workers * AHEAD)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _results(
    pool: ProcessPoolExecutor, function: Callable[[Any], Any], items: Iterator[Any], most: int
) -> Iterator[Any]:
    """The results in order, at most so many items with other processes; while they work on the one whose turn it is,
    this process takes others itself."""
    waiting: deque[Future[Any]] = deque()
    while True:
        free = most - sum(not each.done() for each in waiting)
        waiting.extend(pool.submit(_call, item) for item in islice(items, free))
        if not waiting:
            return
        is_early = not waiting[0].done() and len(waiting) < 2 * most
        own = list(islice(items, 1)) if is_early else []
        if own:
            waiting.append(Future())
            waiting[-1].set_result(_attempt(function, own[0]))
            continue
        result = waiting.popleft().result()
        if isinstance(result, _Failure):
            raise result.error()
        yield result


def _begin(function: Callable[[Any], Any]) -> None:
    """What a new process does first: remember the work, and see to it that it does not outlive its parent."""
    global _function
    _function = function
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os.kill(os.getpid(), signal.SIGTERM)


def _call(item: Any) -> Any:
    """The work on an item, in another process."""
    return _attempt(_function, item)


def _attempt(function: Callable[[Any], Any], item: Any) -> Any:
    """The result, or an error of ours as plain values: exceptions with arguments of their own do not travel."""
    try:
        return function(item)
    except HantuneError as error:
        return _Failure(type(error), error.code, error.message, error.place, error.hint)
