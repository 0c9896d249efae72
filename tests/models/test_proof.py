"""The proof sees a wrong merge, and lets rounding be rounding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hantune.errors import ModelError
from hantune.models.proof import (
    TOLERANCES,
    Answers,
    answer,
    badly_rounded,
    compare,
    in_float32,
    read_along,
    require_equal,
)

PROMPTS = [[1, 5, 9], [1, 300, 301, 302, 7], [1]]


def answers(*logits: torch.Tensor, tokens: int = 4) -> Answers:
    ids = tuple(tuple(its[-tokens:].argmax(-1).tolist()) for its in logits)
    return Answers(ids=ids, logits=logits)


@pytest.mark.parametrize("family", ["llama", "bloom"])
def test_reading_along_is_the_plain_forward(family: str, request: pytest.FixtureRequest, sp_tokenizer: Any) -> None:
    model = request.getfixturevalue(f"tiny_{family}")(sp_tokenizer)
    found = answer(model, PROMPTS, tokens=6)
    for prompt, ids, logits in zip(PROMPTS, found.ids, found.logits, strict=True):
        whole = model(input_ids=torch.tensor([[*prompt, *ids]])).logits[0, :-1]
        torch.testing.assert_close(logits, whole, rtol=1e-4, atol=1e-5)
        assert tuple(logits[-6:].argmax(-1).tolist()) == ids


@pytest.mark.parametrize("family", ["llama", "bloom"])
def test_16_bit_weights_are_computed_with_in_float32(
    family: str, request: pytest.FixtureRequest, sp_tokenizer: Any
) -> None:
    model = request.getfixturevalue(f"tiny_{family}")(sp_tokenizer).bfloat16()
    kept = {name: p.clone() for name, p in model.named_parameters()}
    ids = [[4, 5, 6]] * 3
    found = read_along(model, PROMPTS, ids)
    for name, parameter in model.named_parameters():
        assert parameter.dtype == torch.bfloat16
        assert torch.equal(parameter, kept[name])
    wide = read_along(model.float(), PROMPTS, ids)
    for narrow, its in zip(found, wide, strict=True):
        torch.testing.assert_close(narrow, its, rtol=1e-4, atol=1e-5)


def test_a_failed_computation_leaves_no_hooks(tiny_llama: Any, sp_tokenizer: Any) -> None:
    model = tiny_llama(sp_tokenizer).bfloat16()
    with pytest.raises(IndexError), in_float32(model):
        model(input_ids=torch.tensor([[10**6]]))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@given(st.sampled_from([torch.float32, torch.bfloat16, torch.float16]), st.integers(0, 10**6), st.floats(1e-4, 1.0))
def test_correct_rounding_is_never_called_wrong(dtype: torch.dtype, seed: int, scale: float) -> None:
    exact = torch.empty(40, 40).normal_(0, scale, generator=torch.Generator().manual_seed(seed))
    assert badly_rounded(exact, exact.to(dtype)) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_small_wrong_change_is_called_wrong(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    base = torch.empty(256, 256).normal_(0, 0.02, generator=generator).to(dtype).float()
    delta = torch.empty(256, 256).normal_(0, 0.001, generator=generator)
    assert badly_rounded(base + delta, (base + 1.05 * delta).to(dtype)) > 0
    assert badly_rounded(base + delta, base.to(dtype)) > 0


def test_equal_logits_prove_equality() -> None:
    its = torch.randn(3, 8, 50, generator=torch.Generator().manual_seed(0)).unbind()
    proof = compare(answers(*its), [t * 0 for t in its], its, torch.float32, wrong=0)
    assert proof.holds
    assert (proof.difference, proof.equal_tokens, proof.positions, proof.lost) == (0, 12, 24, 0)
    require_equal(proof, "adapter")


def test_a_flip_is_allowed_only_where_the_reference_was_undecided() -> None:
    its = torch.zeros(4, 10)
    its[:, 0], its[:, 1] = 5.0, 4.9999
    mine = its.clone()
    mine[2, 0], mine[2, 1] = 4.9999, 5.0
    proof = compare(answers(its), [its * 0], [mine], torch.float32, wrong=0)
    assert (proof.equal_tokens, proof.flips, proof.wrong_flips, proof.holds) == (3, 1, 0, True)
    its[:, 1] = mine[:, 1] = 1.0
    mine[2, 0], mine[2, 1] = 2.0, 3.0
    proof = compare(answers(its), [its * 0], [mine], torch.float32, wrong=0)
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
            proof = compare(answers(*scaled), [its[0] * 0], [mine[0] * scale], dtype, wrong=0)
            assert proof.holds is holds


def test_nan_and_wrong_weights_never_hold() -> None:
    its = torch.randn(2, 8, 50, generator=torch.Generator().manual_seed(0)).unbind()
    mine = [its[0].clone(), its[1].clone()]
    mine[1][3, 3] = float("nan")
    assert not compare(answers(*its), its, mine, torch.float32, wrong=0).holds
    proof = compare(answers(*its), its, its, torch.float32, wrong=1)
    with pytest.raises(ModelError) as caught:
        require_equal(proof, "adapter")
    assert caught.value.code == "merge.not-equal"
