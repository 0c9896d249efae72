"""Grouping is a way there and back: every token of every head has one place, and what is added comes to nothing."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hantune.models.grouped import STEP, grouped


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 3 * STEP), min_size=1, max_size=8), st.sampled_from([(1, 1), (4, 2), (6, 1)]))
def test_every_row_has_its_place_and_comes_back(lengths: list[int], heads: tuple[int, int]) -> None:
    layout = grouped(tuple(lengths), *heads)
    tokens = sum(lengths)
    q_THE = torch.arange(tokens * heads[0] * 2.0).view(tokens, heads[0], 2)
    assert torch.equal(layout.back(layout.queries(q_THE), heads[0]), q_THE)
    repeated = torch.arange(tokens * heads[1] * 2.0).view(tokens, heads[1], 2)
    wanted = repeated.repeat_interleave(heads[0] // heads[1], dim=1)
    assert torch.equal(layout.back(layout.keys(repeated), heads[0]), wanted)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 3 * STEP), min_size=1, max_size=8))
def test_a_group_is_documents_of_one_rounded_length(lengths: list[int]) -> None:
    layout = grouped(tuple(lengths), 3, 3)
    documents, heads = torch.repeat_interleave(torch.tensor(lengths))[layout.query_rows // 3], layout.query_rows % 3
    end = 0
    for places, length in layout.groups:
        assert places.start == end
        lines_NL = documents[places].view(-1, length)
        assert bool((lines_NL == lines_NL[:, :1]).all())
        assert bool((heads[places].view(-1, length) == heads[places].view(-1, length)[:, :1]).all())
        assert {-(-lengths[document] // STEP) * STEP for document in lines_NL[:, 0].tolist()} == {length}
        end = places.stop
    assert end == len(documents)
    assert len({length for _, length in layout.groups}) == len(layout.groups)


def test_places_without_a_token_get_no_gradient() -> None:
    layout = grouped((3, STEP, 1), 2, 2)
    ones = layout.gradients(torch.ones(4 + STEP, 2, 5))
    assert int(ones.sum()) == (4 + STEP) * 2 * 5
    assert len(layout.added) == 2 * (2 * STEP - 4)
