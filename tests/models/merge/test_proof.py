"""The proof sees a wrong merge, and lets rounding be rounding."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hantune.errors import ModelError
from hantune.models.merge import proof as proving
from hantune.models.merge.proof import TOLERANCES, Answers, compare, require_equal

Logits = tuple[torch.Tensor, ...]


def three(reference: Any, untouched: Any, merged: Any) -> Answers:
    return Answers(reference=tuple(reference), untouched=tuple(untouched), merged=tuple(merged))


def test_equal_logits_prove_equality() -> None:
    its = torch.randn(3, 8, 50, generator=torch.Generator().manual_seed(0)).unbind()
    proof = compare(three(its, [t * 0 for t in its], its), torch.float32, wrong=0)
    assert proof.holds
    assert (proof.difference, proof.equal_tokens, proof.positions, proof.lost) == (0, 24, 24, 0)
    require_equal(proof, "adapter")


def test_a_flip_is_allowed_only_where_the_reference_was_undecided() -> None:
    its = torch.zeros(4, 10)
    its[:, 0], its[:, 1] = 5.0, 4.9999
    mine = its.clone()
    mine[2, 0], mine[2, 1] = 4.9999, 5.0
    proof = compare(three([its], [its * 0], [mine]), torch.float32, wrong=0)
    assert (proof.equal_tokens, proof.flips, proof.wrong_flips, proof.holds) == (3, 1, 0, True)
    its[:, 1] = mine[:, 1] = 1.0
    mine[2, 0], mine[2, 1] = 2.0, 3.0
    proof = compare(three([its], [its * 0], [mine]), torch.float32, wrong=0)
    assert proof.wrong_flips == 1
    assert not proof.holds


@pytest.mark.parametrize("dtype", list(TOLERANCES))
def test_the_tolerance_counts_in_units_of_the_logits(dtype: torch.dtype) -> None:
    its = torch.randn(1, 8, 50, generator=torch.Generator().manual_seed(0)).unbind()
    for share, holds in ((0.5, True), (2.0, False)):
        mine = [its[0].clone()]
        mine[0][0, 0] += share * TOLERANCES[dtype] * float(its[0].square().mean().sqrt())
        for scale in (1.0, 100.0):
            scaled = [its[0] * scale]
            proof = compare(three(scaled, [its[0] * 0], [mine[0] * scale]), dtype, wrong=0)
            assert proof.holds is holds


def test_nan_and_wrong_weights_never_hold() -> None:
    its = torch.randn(2, 8, 50, generator=torch.Generator().manual_seed(0)).unbind()
    mine = [its[0].clone(), its[1].clone()]
    mine[1][3, 3] = float("nan")
    assert not compare(three(its, its, mine), torch.float32, wrong=0).holds
    proof = compare(three(its, its, its), torch.float32, wrong=1)
    with pytest.raises(ModelError) as caught:
        require_equal(proof, "adapter")
    assert caught.value.code == "merge.not-equal"


class Counting:
    """A sweep whose models all want the next id."""

    def __init__(self) -> None:
        self.passes: list[tuple[int, ...]] = []

    def reference(self, tokens_BT: torch.Tensor) -> torch.Tensor:
        self.passes.append(tuple(tokens_BT.shape))
        return torch.nn.functional.one_hot((tokens_BT + 1) % 50, 50).float()

    def all_three(self, tokens_BT: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = self.reference(tokens_BT)
        return found, found, found


@pytest.mark.parametrize(
    ("parameters", "rows", "tokens"),
    [(10**6, 3, proving.GREEDY_TOKENS), (10**8, 3, 9), (10**9, 2, 2), (10**10, 1, 1), (2 * 10**10, 1, 0)],
)
def test_a_large_model_is_asked_less(parameters: int, rows: int, tokens: int) -> None:
    sweep = Counting()
    prompts = [[1, 2, 3, 4, 5, 6], [7], [8, 9, 10, 11]]
    found = proving.answers(sweep, prompts, parameters=parameters)  # type: ignore[arg-type]
    assert len(sweep.passes) == tokens + 1
    lengths = sorted(map(len, prompts))[:rows]
    assert [len(its) for its in found.reference] == [length + tokens for length in lengths]
    assert sweep.passes[-1] == (rows, max(lengths) + tokens)
