"""Keys and values of many answers in progress, whose rows come and go while the others stay where they are.

All rows end at one column, ``end``; a row begins at its own column ``starts[row]``. So one decoding step writes one
column, and attention reads the columns from the earliest start to ``end``, without copying what is there already::

    row 0   . . . x x x x x x|        x  a token's keys and values
    row 1   x x x x x x x x x|        .  masked: nothing, or what another row left behind
    row 2   . . . . . . x x x|        |  end: where the next token of every row goes

Shape letters: R rows, H heads, C columns, D size of a head, G new rows, S new columns.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

KeysValues = tuple[Tensor, Tensor]
"""Of one layer and one row: [H, C, D] each."""
ROOM = 64
"""Columns are added in steps of this many at least."""


def is_keys_and_values(config: Any) -> bool:
    """Whether all that a model remembers are keys and values of tokens (not so: Mamba, linear attention)."""
    return all(type(kind) in (DynamicLayer, DynamicSlidingWindowLayer) for kind in DynamicCache(config=config).layers)


class RowCache(Cache):  # type: ignore[misc, unused-ignore]
    """A transformers cache of rows that all end at column ``end``.

    A forward call sees the ``window``: rows ``first_row:last_row``, columns from ``first_column``; what it computes
    goes to the columns from ``at``.
    """

    def __init__(self, config: Any) -> None:
        super().__init__(layers=[_Layer(self) for _ in DynamicCache(config=config).layers])
        self.starts: list[int] = []
        self.end = 0
        self.num_columns = 0
        self.num_rows = 0
        self.first_row = self.last_row = self.first_column = self.at = 0

    def window(self, rows: range, at: int) -> None:
        """What the next forward call sees, and where its tokens go."""
        self.first_row, self.last_row, self.at = rows.start, rows.stop, at
        self.first_column = min(self.starts[row] for row in rows)

    def window_mask(self, new: int, device: torch.device) -> tuple[Tensor | None, Tensor | None]:
        """Mask [R, C] and positions [R, S] of the window with ``new`` columns; None, None where no row is padded."""
        starts = self.starts[self.first_row : self.last_row]
        if all(start == self.first_column for start in starts):
            return None, None
        starts_R1 = torch.tensor(starts, device=device)[:, None]
        columns_C = torch.arange(self.first_column, self.at + new, device=device)
        return (columns_C >= starts_R1).long(), (columns_C[-new:] - starts_R1).clamp(min=0)

    def add_rows(self, lengths: Sequence[int]) -> range:
        """New rows for sequences of these lengths, the last column of each just before ``end``; not yet filled."""
        first = len(self.starts)
        longest = max(lengths)
        end = self.end if longest <= self.end else longest if not first else -(-longest // ROOM) * ROOM
        self._reserve(first + len(lengths), end)
        if end > self.end:
            self._move(end)
        self.starts += [self.end - length for length in lengths]
        return range(first, first + len(lengths))

    def add_copy(self, row: int) -> None:
        """One more row that holds what ``row`` holds."""
        self._reserve(len(self.starts) + 1, self.end)
        self.starts.append(self.starts[row])
        self._copy(row, len(self.starts) - 1)

    def advance(self) -> None:
        """Make the column at ``end`` writable; call before a decoding step, which writes there."""
        if self.end == self.num_columns:
            first = min(self.starts)
            if first >= self.num_columns // 2:
                self._move(self.end - first)
            else:
                self._reserve(len(self.starts), self.end + 1)
        self.end += 1

    def remove(self, row: int) -> None:
        """Free ``row``; the last row takes its place."""
        last = len(self.starts) - 1
        if row != last:
            self.starts[row] = self.starts[last]
            self._copy(last, row)
        self.starts.pop()
        if not self.starts:
            self.end = 0

    def take(self, row: int) -> list[KeysValues]:
        """A copy of everything that ``row`` holds, layer by layer."""
        span = slice(self.starts[row], self.end)
        return [(layer.keys[row, :, span].clone(), layer.values[row, :, span].clone()) for layer in self.layers]

    def put(self, row: int, prefix: Sequence[KeysValues], length: int) -> None:
        """Fill the first ``length`` columns of ``row`` with those of ``prefix``."""
        span = slice(self.starts[row], self.starts[row] + length)
        for layer, (keys_HCD, values_HCD) in zip(self.layers, prefix, strict=True):
            layer.allocate(keys_HCD[None], values_HCD[None])
            layer.keys[row, :, span] = keys_HCD[:, :length]
            layer.values[row, :, span] = values_HCD[:, :length]

    def _copy(self, source: int, target: int) -> None:
        span = slice(self.starts[source], self.end)
        for layer in self._filled():
            layer.keys[target, :, span] = layer.keys[source, :, span]
            layer.values[target, :, span] = layer.values[source, :, span]

    def _filled(self) -> list[_Layer]:
        return [layer for layer in self.layers if layer.is_initialized]

    def _move(self, end: int) -> None:
        """Put everything that is held where ``end`` is the given column."""
        first = min(self.starts, default=self.end)
        shift = end - self.end
        span, kept = slice(first + shift, end), slice(first, self.end)
        self._reserve(self.num_rows, end)
        if self.starts:
            for layer in self._filled():
                layer.keys[:, :, span] = layer.keys[:, :, kept].clone()
                layer.values[:, :, span] = layer.values[:, :, kept].clone()
        self.starts = [start + shift for start in self.starts]
        self.end = end

    def _reserve(self, rows: int, columns: int) -> None:
        """Storage for at least so many rows and columns, and some to spare: growing costs little in the long run."""
        if rows <= self.num_rows and columns <= self.num_columns:
            return
        if columns > self.num_columns:
            grown = self.num_columns + self.num_columns // 4
            self.num_columns = -(-max(columns, grown) // ROOM) * ROOM
        if rows > self.num_rows:
            self.num_rows = rows if not self.num_rows else max(rows, 2 * self.num_rows)
        for layer in self._filled():
            layer.resize(len(self.starts), self.end)


class _Layer(CacheLayerMixin):  # type: ignore[misc, unused-ignore]
    """Storage of one layer, [R, H, C, D]; the window of its cache says which part is meant."""

    is_sliding = False
    is_initialized: bool
    keys: Any
    values: Any

    def __init__(self, cache: RowCache) -> None:
        super().__init__()
        # Not a strong reference: a circle would keep the storage until Python looks for circles.
        self.cache = cast(RowCache, weakref.proxy(cache))

    def allocate(self, keys: Tensor, values: Tensor) -> None:
        """Storage for tensors like these. Zeros: what is masked is multiplied by 0, and 0 * NaN is NaN."""
        if not self.is_initialized:
            self.keys = self._zeros(keys)
            self.values = self._zeros(values)
            self.is_initialized = True

    lazy_initialization = allocate

    def _zeros(self, like: Tensor) -> Tensor:
        return like.new_zeros(self.cache.num_rows, like.shape[1], self.cache.num_columns, like.shape[3])

    def resize(self, rows: int, end: int) -> None:
        """Storage of the cache's present size with what ``rows`` rows hold up to ``end``."""
        keys, values = self._zeros(self.keys), self._zeros(self.values)
        keys[:rows, :, :end] = self.keys[:rows, :, :end]
        values[:rows, :, :end] = self.values[:rows, :, :end]
        self.keys, self.values = keys, values

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> KeysValues:
        """Write the new columns; the keys and values of the whole window, as views."""
        self.allocate(key_states, value_states)
        cache = self.cache
        rows, stop = slice(cache.first_row, cache.last_row), cache.at + key_states.shape[2]
        self.keys[rows, :, cache.at : stop] = key_states
        self.values[rows, :, cache.at : stop] = value_states
        return self.keys[rows, :, cache.first_column : stop], self.values[rows, :, cache.first_column : stop]

    def get_seq_length(self) -> int:
        """Columns of the window before the new ones."""
        return self.cache.at - self.cache.first_column

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        return -1
