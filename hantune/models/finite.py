"""Whether weights are numbers: NaN and infinity, and matrices of nothing but zeros, found in the raw bytes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hantune.models.headers import read_header

EXPONENTS = {
    "F64": ("<u8", 0x7FF << 52),
    "F32": ("<u4", 0xFF << 23),
    "F16": ("<u2", 0x1F << 10),
    "BF16": ("<u2", 0xFF << 7),
}
"""dtype -> (its bits as a whole number, the bits of its exponent; all of them set: NaN or infinity)."""
SAMPLE_BYTES = 4096
BLOCK_BYTES = 8 << 20


class Faults(NamedTuple):
    """Of one tensor: how many of the numbers read are none, and whether all of them are zero."""

    name: str
    not_finite: int
    is_zero: bool


def faults(path: Path, *, deep: bool = False) -> Iterator[Faults]:
    """The tensors of a file with something wrong. Read are three pieces of 4 KiB of each; ``deep``: all of it."""
    with path.open("rb") as file:
        start = 8 + int.from_bytes(file.read(8), "little")
        for name, spec in read_header(path).items():
            if spec.dtype in EXPONENTS and spec.num_bytes:
                bad, any_set = 0, False
                for offset, length in _pieces(spec.num_bytes, deep):
                    file.seek(start + offset)
                    bits = np.frombuffer(file.read(length), EXPONENTS[spec.dtype][0])
                    mask = bits.dtype.type(EXPONENTS[spec.dtype][1])
                    bad += int(np.count_nonzero((bits & mask) == mask))
                    any_set = any_set or bool(bits.any())
                if bad or (len(spec.shape) > 1 and not any_set):
                    yield Faults(name, bad, not any_set)
            start += spec.num_bytes


def _pieces(num_bytes: int, deep: bool) -> Iterator[tuple[int, int]]:
    """(offset, length) of what is read of a tensor."""
    if deep or num_bytes <= 3 * SAMPLE_BYTES:
        yield from ((offset, min(BLOCK_BYTES, num_bytes - offset)) for offset in range(0, num_bytes, BLOCK_BYTES))
    else:
        middle = num_bytes // 2 // SAMPLE_BYTES * SAMPLE_BYTES
        yield from ((offset, SAMPLE_BYTES) for offset in (0, middle, (num_bytes - SAMPLE_BYTES) // 8 * 8))
