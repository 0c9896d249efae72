"""Both forms of a formula agree, in float32 to rounding and in bf16 to bf16's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from hantune.train import formulas
from hantune.train.formulas import EAGER, PLAIN, Formulas


@pytest.fixture(autouse=True)
def eager_again() -> Iterator[None]:
    yield
    formulas.use(EAGER)


def outcomes(kind: Formulas, dtype: torch.dtype) -> list[Tensor]:
    torch.manual_seed(0)
    x, grad = (torch.randn(2, 300, 16).to(dtype) for _ in range(2))
    weight, heads = torch.randn(16).to(dtype), torch.randn(7, 3, 8).to(dtype)
    angles = torch.randn(7, 4).repeat(1, 2).to(dtype)
    y, inverse = kind.norm(x, weight, 1e-5)
    turned = kind.turn(heads, angles.cos(), angles.sin())
    return [y, inverse, kind.d_norm(grad, x, inverse, weight), kind.swiglu(x, grad), *kind.d_swiglu(grad, x, y), turned]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
def test_plain_is_eager(dtype: torch.dtype, tolerance: float) -> None:
    for plain, eager in zip(outcomes(PLAIN, dtype), outcomes(EAGER, dtype), strict=True):
        assert plain.dtype == eager.dtype
        assert plain.shape == eager.shape
        assert (plain.float() - eager.float()).norm() <= tolerance * eager.float().norm()


def test_the_choice_is_what_is_in_use() -> None:
    assert formulas.in_use() is EAGER
    formulas.use(PLAIN)
    assert formulas.in_use() is PLAIN
