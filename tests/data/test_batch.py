"""Tensors of a batch: literal values."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch

from hantune.data.batch import IGNORED, Documents, collate, evaluation_batches, shifted_labels
from hantune.data.pack import Layout
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


def test_a_first_token_that_is_to_be_learned_is_no_target() -> None:
    """A text without a beginning mark: nothing stands before its first token."""
    batch = collate([Example(ids=(7, 8, 9), mask=(1, 1, 1))], layout="sorted", pad_id=0)
    assert batch.num_supervised == int((batch.labels_BT != IGNORED).sum()) == 2


def test_documents_know_their_borders_and_the_longest_in_any_order() -> None:
    documents = Documents.of([3, 5, 2])
    assert documents.longest == 5
    assert documents.offsets.tolist() == [0, 3, 8, 10]


@pytest.mark.parametrize("layout", ["sorted", "packed"])
def test_moving_takes_every_tensor_along_and_changes_no_other_field(layout: Layout) -> None:
    batch = collate([LONG, SHORT], layout=layout, pad_id=0)
    moved = batch.to("meta")
    for field in fields(batch):
        before, after = getattr(batch, field.name), getattr(moved, field.name)
        if isinstance(before, Documents):
            before, after = before.offsets, after.offsets
        if isinstance(before, torch.Tensor):
            assert (after.device.type, after.shape, after.dtype) == ("meta", before.shape, before.dtype), field.name
        else:
            assert after == before, field.name


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


def test_packed_evaluation_cuts_by_what_packed_rows_hold() -> None:
    """Eight tokens are one packed row; padded, they would be ten."""
    one, *others = evaluation_batches(_Samples(), pad_id=0, layout="packed", batch_tokens=8)
    assert (one.tokens_BT.shape, others) == ((1, 8), [])
