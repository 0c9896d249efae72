"""The formats of conversation files, one small module each, and how one is recognised.

A format has ``NAME``, ``SHAPE`` (for people), ``NEEDS`` (the fields it cannot do without, in alternatives),
``matches(value) -> why or None`` and ``read(row) -> conversations or rejects``. A new one is a file here and a line in
``FORMATS``.
"""

from __future__ import annotations

import difflib
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol, cast

from hantune.data.formats import (
    alpaca,
    belle,
    crosswoz,
    firefly,
    flagalpha,
    huatuo,
    kdconv,
    lccc,
    messages,
    pairs,
    preference,
    samsum,
    sharegpt,
    text,
    user,
)
from hantune.data.formats.common import describe
from hantune.data.types import Conversation, Reject, Row
from hantune.errors import ConfigError, DataError

ALIKE = 0.6
"""How much the names of fields must be alike for a format to be called the nearest; else it is the commonest one."""
FIELDS_TO_COMPARE = 100
"""A record of ten thousand columns is compared with the formats by its first ones."""


class Format(Protocol):
    """What a module of this package offers."""

    NAME: str
    SHAPE: str
    NEEDS: tuple[tuple[str, ...], ...]

    def matches(self, value: Any) -> str | None: ...

    def read(self, row: Row) -> Iterator[Conversation | Reject]: ...


FORMATS: dict[str, Format] = {
    module.NAME: cast(Format, module)
    for module in (
        preference, crosswoz, messages, flagalpha, belle, sharegpt, firefly, lccc, huatuo, kdconv, samsum, alpaca,
        pairs, text,
    )
}  # fmt: skip
"""name -> format; where two fit equally, the earlier wins (the narrower ones come first)."""


class Detection(NamedTuple):
    """The format of a file and why it is thought to be that."""

    name: str
    why: str


def get_format(name: str) -> Format:
    """The format of that name; a user's own one only if the command line named it.

    Raises: ConfigError ``format.unknown-name``, ``format.user-code``.
    """
    if name in user.LOADED:
        return user.LOADED[name]
    if user.is_user_format(name):
        raise user.only_on_the_command_line(name)
    if name in FORMATS:
        return FORMATS[name]
    near = difflib.get_close_matches(name, FORMATS, n=1, cutoff=0.4)
    raise ConfigError(
        "format.unknown-name",
        f"没有叫 {name} 的格式" + (f", 是不是 {near[0]}?" if near else ""),
        place="--format",
        hint=f"--format 可以是 {', '.join(FORMATS)}; 不写就自动认",
    )


def detect(rows: Sequence[Row]) -> Detection:
    """The format that fits most of the first rows of a file.

    Raises: DataError ``format.unknown-fields`` with the fields found and the nearest format.
    """
    votes: Counter[str] = Counter()
    whys: dict[str, str] = {}
    for row in rows:
        for name, format in FORMATS.items():
            why = format.matches(row.value)
            if why:
                votes[name] += 1
                whys.setdefault(name, why)
    if votes:
        best = max(votes.values())
        name = next(name for name in FORMATS if votes[name] == best)
        share = "" if best == len(rows) else f" (前 {len(rows)} 条里有 {best} 条)"
        return Detection(name, f"像 {name}: {whys[name]}{share}")
    nearest = FORMATS[_nearest(rows[0].value)]
    raise DataError(
        "format.unknown-fields",
        f"认不出格式: 这里是 {describe(rows[0].value)}; 最接近的是 {nearest.NAME}, 它要有 {nearest.SHAPE}",
        place=rows[0].source,
        hint=f"把字段改成 {nearest.NAME} 的名字, 或用 --format 指定一种; 各种格式的样子见 docs/reference/formats.md",
    )


def _nearest(value: Any) -> str:
    """The name of the format whose fields look most like the record's."""
    if isinstance(value, list):
        return messages.NAME if value and isinstance(value[0], dict) else lccc.NAME
    if not isinstance(value, dict):
        return lccc.NAME
    names = [str(name).strip().lower() for name in itertools.islice(value, FIELDS_TO_COMPARE)]

    def likeness(format: Format) -> float:
        return max(sum(closest(field) for field in fields) / len(fields) for fields in format.NEEDS)

    def closest(field: str) -> float:
        return max((difflib.SequenceMatcher(None, name, field).ratio() for name in names), default=0.0)

    best = max(FORMATS.values(), key=likeness)
    return best.NAME if likeness(best) > ALIKE else pairs.NAME
