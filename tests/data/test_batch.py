"""Tensors of a batch: literal values."""

from __future__ import annotations

import numpy as np
import torch

from hantune.data.batch import IGNORED, collate, evaluation_batches, shifted_labels
from hantune.data.types import Example

SHORT = Example(ids=(1, 5, 6), mask=(0, 0, 1))
LONG = Example(ids=(1, 7, 8, 9, 2), mask=(0, 0, 1, 1, 1))


def test_a_label_is_the_next_token_where_that_token_is_learned() -> None:
    assert shifted_labels(LONG) == [IGNORED, 8, 9, 2, IGNORED]


def test_padded_rows_end_in_pad_without_label() -> None:
    batch = collate([LONG, SHORT], layout="sorted", pad_id=2)
    assert batch.tokens_BT.tolist() == [[1, 7, 8, 9, 2], [1, 5, 6, 2, 2]]
    assert batch.labels_BT.tolist() == [[-100, 8, 9, 2, -100], [-100, 6, -100, -100, -100]]
    assert batch.mask_BT is not None
    assert batch.mask_BT.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    assert (batch.num_supervised, batch.num_tokens) == (4, 8)


def test_packed_documents_restart_positions_and_learn_nothing_across_the_seam() -> None:
    batch = collate([LONG, SHORT], layout="packed", pad_id=0)
    assert batch.mask_BT is None
    assert batch.positions_BT is not None
    assert batch.tokens_BT.tolist() == [[1, 7, 8, 9, 2, 1, 5, 6]]
    assert batch.positions_BT.tolist() == [[0, 1, 2, 3, 4, 0, 1, 2]]
    assert batch.labels_BT.tolist() == [[-100, 8, 9, 2, -100, -100, 6, -100]]


def test_moving_keeps_every_field() -> None:
    batch = collate([LONG, SHORT], layout="sorted", pad_id=0).to("cpu")
    assert torch.equal(batch.tokens_BT, collate([LONG, SHORT], layout="sorted", pad_id=0).tokens_BT)


class _Samples:
    lengths = np.array([5, 3])
    characters = np.array([4, 2])

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Example:
        return (LONG, SHORT)[index]


def test_evaluation_takes_every_sample_once() -> None:
    batches = list(evaluation_batches(_Samples(), pad_id=0, batch_size=1))
    assert [batch.indices for batch in batches] == [(0,), (1,)]
    assert sum(batch.num_characters for batch in batches) == 6
