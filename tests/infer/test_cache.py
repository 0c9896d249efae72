"""The rows hold what was written to them, whatever comes and goes around them."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from hantune.infer.cache import RowCache, is_keys_and_values


@pytest.fixture
def cache() -> RowCache:
    from transformers import LlamaConfig

    return RowCache(LlamaConfig(num_hidden_layers=2))


def states(values: list[list[float]]) -> Tensor:
    """[R, H = 1, C, D = 2] with these values."""
    return torch.tensor(values)[:, None, :, None].expand(-1, 1, -1, 2)


def write(cache: RowCache, values: list[list[float]]) -> list[Tensor]:
    """What each layer shows of the keys after new columns; the values are the keys' negatives."""
    seen = []
    for layer in range(2):
        keys, negatives = cache.update(states(values) + layer, -states(values) - layer, layer)
        assert torch.equal(keys, -negatives)
        seen.append(keys[:, 0, :, 0] - layer)
    return seen


class Mirror:
    """The same rows as plain lists."""

    def __init__(self, cache: RowCache) -> None:
        self.cache = cache
        self.rows: list[list[float]] = []
        self.next = 0.0

    def fresh(self, count: int) -> list[float]:
        self.next += count
        return [self.next - count + number for number in range(count)]

    def add(self, lengths: list[int]) -> None:
        rows = self.cache.add_rows(lengths)
        added = [self.fresh(length) for length in lengths]
        new = max(lengths)
        self.cache.window(rows, self.cache.end - new)
        write(self.cache, [[-1.0] * (new - len(row)) + row for row in added])
        self.rows += added

    def step(self) -> None:
        self.cache.advance()
        self.cache.window(range(len(self.rows)), self.cache.end - 1)
        for row in self.rows:
            row.append(self.fresh(1)[0])
        mask, positions = self.cache.window_mask(1, torch.device("cpu"))
        for shown in write(self.cache, [row[-1:] for row in self.rows]):
            for number, row in enumerate(self.rows):
                assert shown[number].tolist()[-len(row) :] == row
                if mask is not None and positions is not None:
                    assert mask[number].tolist() == [0] * (shown.shape[1] - len(row)) + [1] * len(row)
                    assert int(positions[number, -1]) == len(row) - 1
                else:
                    assert shown.shape[1] == len(row)
        assert self.cache.get_seq_length() == shown.shape[1] - 1

    def remove(self, row: int) -> None:
        self.cache.remove(row)
        self.rows[row] = self.rows[-1]
        self.rows.pop()


@pytest.mark.parametrize("seed", range(4))
def test_rows_hold_what_was_written_whatever_comes_and_goes(cache: RowCache, seed: int) -> None:
    chance, mirror = random.Random(seed), Mirror(cache)
    for _ in range(250):
        kind = chance.random()
        if not mirror.rows or (kind < 0.1 and len(mirror.rows) < 9):
            mirror.add([chance.choice([1, 3, 30, 150]) for _ in range(chance.randint(1, 3))])
        elif kind < 0.2:
            mirror.remove(chance.randrange(len(mirror.rows)))
        elif kind < 0.25:
            row = chance.randrange(len(mirror.rows))
            cache.add_copy(row)
            mirror.rows.append(list(mirror.rows[row]))
        else:
            mirror.step()
    assert len(cache.starts) == len(mirror.rows)


def test_storage_stays_small_however_long_it_runs(cache: RowCache) -> None:
    """Rows of 20 columns that follow each other for ever need no more columns than a few of them."""
    mirror = Mirror(cache)
    mirror.add([10])
    for _ in range(40):
        mirror.add([10])
        for _ in range(10):
            mirror.step()
        mirror.remove(0)
    assert cache.num_columns <= 128


def test_what_is_taken_can_be_put_elsewhere(cache: RowCache) -> None:
    mirror = Mirror(cache)
    mirror.add([3, 5])
    mirror.step()
    layers = cache.take(0)
    assert layers[0][0][0, :, 0].tolist() == mirror.rows[0]
    kept = list(mirror.rows[0])
    mirror.step()
    rows = cache.add_rows([6])
    cache.put(rows[0], layers, 3)
    cache.window(rows, cache.end - 3)
    for shown in write(cache, [[7.0, 8.0, 9.0]]):
        assert shown[0].tolist() == [*kept[:3], 7.0, 8.0, 9.0]
    mirror.rows.append([*kept[:3], 7.0, 8.0, 9.0])
    mirror.step()


def test_what_is_keys_and_values() -> None:
    from transformers import GPT2Config, LlamaConfig, MambaConfig, MistralConfig, Qwen3NextConfig

    assert all(is_keys_and_values(config()) for config in (LlamaConfig, GPT2Config, MistralConfig))
    assert not any(is_keys_and_values(config()) for config in (MambaConfig, Qwen3NextConfig))
