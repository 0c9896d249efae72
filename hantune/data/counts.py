"""Whole numbers counted by value: mean, quantiles and classes of any number of them, in memory that does not grow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]
LARGEST = 1 << 20
"""Larger values count as this one in quantiles and classes; the total and the maximum stay exact."""
QUANTILES = {"median": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}
BAR = 30
"""Columns of the longest bar."""


class Class(NamedTuple):
    """How many values lie between two, both included."""

    low: int
    high: int
    number: int


class Counts:
    """Numbers that are not negative, such as lengths."""

    def __init__(self) -> None:
        self._by_value = np.zeros(1, np.int64)
        self.total = 0
        self.largest = 0

    def __len__(self) -> int:
        return int(self._by_value.sum())

    def add(self, values: Array) -> None:
        """Count more values."""
        if len(values):
            self.total += int(values.sum())
            self.largest = max(self.largest, int(values.max()))
            self._join(np.bincount(np.minimum(values, LARGEST)))

    def merge(self, other: Counts) -> None:
        """Count what another has counted."""
        self.total += other.total
        self.largest = max(self.largest, other.largest)
        self._join(other._by_value)

    def _join(self, counts: Array) -> None:
        longer, shorter = sorted((self._by_value, counts), key=len, reverse=True)
        self._by_value = longer.astype(np.int64)
        self._by_value[: len(shorter)] += shorter

    def below(self, limit: int) -> float:
        """The share of values below ``limit`` (0..1)."""
        return float(self._by_value[:limit].sum() / max(1, len(self)))

    def quantile(self, share: float) -> int:
        """The smallest value that at least ``share`` of all do not exceed; 0 where there are none."""
        reached = np.cumsum(self._by_value)
        return int(np.searchsorted(reached, share * reached[-1])) if reached[-1] else 0

    def classes(self) -> list[Class]:
        """From the smallest value to the largest, two classes a doubling: 1, 2, 3, 4-5, 6-7, 8-11, 12-15, 16-23 ..."""
        edges = class_edges(len(self._by_value))
        sums = np.concatenate([[0], np.cumsum(self._by_value)])[np.minimum(edges, len(self._by_value))]
        found = np.flatnonzero(np.diff(sums))
        if not len(found):
            return []
        inside = range(found[0], found[-1] + 1)
        return [Class(int(edges[i]), int(edges[i + 1]) - 1, int(sums[i + 1] - sums[i])) for i in inside]

    def summary(self) -> dict[str, Any]:
        """{mean, median, p90, p95, p99, max, total, classes: [{from, to, count}]}; zeros when there are none."""
        quantiles = {name: self.quantile(share) for name, share in QUANTILES.items()}
        classes = [{"from": low, "to": high, "count": number} for low, high, number in self.classes()]
        mean = round(self.total / max(1, len(self)), 1)
        return {"mean": mean, **quantiles, "max": self.largest, "total": self.total, "classes": classes}


def class_edges(end: int) -> Array:
    """Where classes begin: 0, 1, 2, 3, 4, 6, 8, 12, 16, 24 ... up to the first that is not below ``end``."""
    edges = [0, 1]
    while edges[-1] < end:
        last = edges[-1]
        is_power = last & (last - 1) == 0
        edges.append(last + max(1, last // 2) if is_power else last // 3 * 4)
    return np.array(edges)


def classes_of(summary: Mapping[str, Any]) -> list[Class]:
    """The classes in what ``Counts.summary`` says."""
    return [Class(each["from"], each["to"], each["count"]) for each in summary["classes"]]


def bars(classes: Sequence[Class]) -> list[str]:
    """A line a doubling: ``   16-31     450  22%  ████``; the bar stands last, for consoles draw it in two widths."""
    doublings: dict[int, int] = {}
    for each in classes:
        power = each.low.bit_length()
        doublings[power] = doublings.get(power, 0) + each.number
    total, most = sum(doublings.values()), max(doublings.values(), default=1)
    lines = []
    for power, count in doublings.items():
        low, high = 1 << power >> 1, (1 << power) - 1
        name = str(low) if low == high else f"{low}-{high}"
        lines.append(f"{name:>13} {count:>11,} {count / total:>6.1%}  {'█' * round(BAR * count / most)}".rstrip())
    return lines
