"""Sorting more than memory holds: sorted runs in a folder of the user's own, merged as they are read back."""

from __future__ import annotations

import heapq
import marshal
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from hantune.paths import disk_errors

AT_ONCE = 100_000
"""Values in memory at a time."""
Value = TypeVar("Value", bound=tuple[Any, ...])


def in_order(
    values: Iterable[Value], key: Callable[[Value], Any], make: Callable[..., Value], *, at_once: int = AT_ONCE
) -> Iterator[Value]:
    """The tuples of texts, numbers and None in the order of ``key``, equal ones as they came.

    ``make(*fields)`` builds one again. What does not fit into memory is kept in a folder that only this user can read
    and that is gone afterwards.

    Raises: MachineError ``machine.disk-full``.
    """
    with tempfile.TemporaryDirectory(prefix="hantune-") as name:
        folder, runs = Path(name), 0
        held: list[Value] = []
        for value in values:
            held.append(value)
            if len(held) == at_once:
                held.sort(key=key)
                _write(folder / f"{runs}.run", held)
                held, runs = [], runs + 1
        held.sort(key=key)
        spilled = [_read(folder / f"{number}.run", make) for number in range(runs)]
        yield from heapq.merge(*spilled, held, key=key)


def _write(path: Path, values: Iterable[tuple[Any, ...]]) -> None:
    with disk_errors(path), path.open("wb") as file:
        for value in values:
            marshal.dump(tuple(value), file)


def _read(path: Path, make: Callable[..., Value]) -> Iterator[Value]:
    with path.open("rb") as file:
        while file.peek(1):
            yield make(*marshal.load(file))
