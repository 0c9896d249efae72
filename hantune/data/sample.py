"""``path#500`` and ``path:0.2``: only so many records of a source, drawn evenly from all of it.

The draw hangs on the file's bytes alone, so a larger sample of a file contains a smaller one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np

from hantune.errors import ConfigError

T = TypeVar("T")
_SAMPLE = re.compile(r"(?P<path>.+?)(?:#(?P<count>\d+)|:(?P<share>\d*\.\d+|[01]))", re.DOTALL)


def split_sample(given: str) -> tuple[str, str]:
    """(path, sample): ``("a.json", "#500")`` of ``a.json#500``, ``("a.json", ":0.2")`` of ``a.json:0.2``, else ''.

    Raises: ConfigError ``source.bad-sample``.
    """
    match = _SAMPLE.fullmatch(given)
    if not match:
        return given, ""
    number = float(match["count"] or match["share"])
    if number == 0 or (match["share"] and number > 1):
        raise ConfigError(
            "source.bad-sample",
            "取样要写成 #条数 (至少 1), 或者 :比例 (大于 0, 不超过 1)",
            place=given,
            hint=f"例如 {match['path']}#500 或 {match['path']}:0.2; 想多学几遍, 调大 train.epochs",
        )
    return match["path"], given[len(match["path"]) :]


def sampled(sample: str, fingerprint: str, records: Callable[[], Iterator[T]]) -> Iterator[T]:
    """The records that are drawn, in their order. ``#500`` takes a first pass to count them."""
    draws = np.random.default_rng(int(fingerprint[:16], 16))
    if sample.startswith(":"):
        share = float(sample[1:])
        yield from (record for record in records() if draws.random() < share)
        return
    numbers = draws.random(sum(1 for _ in records()))
    chosen = np.zeros(len(numbers), dtype=bool)
    chosen[np.argsort(numbers, kind="stable")[: int(sample[1:])]] = True
    yield from (record for record, is_chosen in zip(records(), chosen, strict=True) if is_chosen)
