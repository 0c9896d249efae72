"""Compiling is tried only where it can pay, and a compiler that fails stops nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from hantune.train import compiled, formulas
from hantune.train.compiled import COMPILERS, Choice, choose, compile_formulas, restore
from hantune.train.formulas import EAGER, PLAIN, Formulas

LIKE = torch.zeros(1)
SHAPE = (8, 64, 96)


@pytest.fixture(autouse=True)
def eager_again() -> Iterator[None]:
    yield
    formulas.use(EAGER)


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A compiler that gives these formulas, and what a pass of each kind takes."""

    def make(ours: float, made: Formulas = PLAIN) -> None:
        monkeypatch.setattr(compiled.shutil, "which", lambda name: name)
        monkeypatch.setattr(compiled, "compile_formulas", lambda: made)
        monkeypatch.setattr(compiled, "_seconds", lambda kind, *rest: ours if kind is made else 1.0)

    return make


def test_a_short_run_and_a_closed_switch_try_nothing(pretend: Any) -> None:
    pretend(0.1)
    for asked, seconds in (("auto", 10.0), ("auto", None), ("off", 1e6)):
        found = choose(asked, seconds=seconds, shape=SHAPE, like=LIKE)
        assert not found.is_compiled
        assert found.reason
        assert formulas.in_use() is EAGER


@pytest.mark.parametrize(
    ("asked", "ours", "is_compiled"), [("auto", 0.5, True), ("auto", 0.95, False), ("on", 2, True)]
)
def test_the_trial_decides(pretend: Any, asked: str, ours: float, is_compiled: bool) -> None:
    pretend(ours)
    found = choose(asked, seconds=1e6, shape=SHAPE, like=LIKE)
    assert found.is_compiled == is_compiled
    assert found.as_dict()["is_compiled"] == is_compiled
    assert formulas.in_use() is (PLAIN if is_compiled else EAGER)


def test_no_compiler_and_a_broken_one_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Formulas:
        raise RuntimeError("g++ exploded")

    monkeypatch.setattr(compiled, "compile_formulas", broken)
    monkeypatch.setattr(compiled.shutil, "which", lambda name: None)
    assert "编译器" in choose("on", seconds=1e6, shape=SHAPE, like=LIKE).reason
    monkeypatch.setattr(compiled.shutil, "which", lambda name: name)
    found = choose("on", seconds=1e6, shape=SHAPE, like=LIKE)
    assert not found.is_compiled
    assert "RuntimeError" in found.reason
    assert formulas.in_use() is EAGER


def test_a_run_that_goes_on_keeps_its_form(pretend: Any) -> None:
    pretend(0.5)
    for is_compiled, expected in ((True, PLAIN), (False, EAGER)):
        choice = Choice(is_compiled=is_compiled, reason="")
        assert restore(choice) == choice
        assert formulas.in_use() is expected


def test_traced_formulas_are_the_plain_ones() -> None:
    """The graph that a compiler would be given, run as it is."""
    made = compile_formulas(backend="aot_eager")
    for tokens in (3, 5):
        x, weight = torch.randn(1, tokens, 8), torch.randn(8)
        for ours, theirs in zip(made.norm(x, weight, 1e-5), PLAIN.norm(x, weight, 1e-5), strict=True):
            torch.testing.assert_close(ours, theirs)


@pytest.mark.slow
def test_a_real_compiler_gives_the_same_numbers() -> None:
    if not any(map(compiled.shutil.which, COMPILERS)):
        pytest.skip("needs a C++ compiler (Debian: g++)")
    found = choose("on", seconds=None, shape=SHAPE, like=LIKE)
    assert found.is_compiled, found.reason
    torch.manual_seed(0)
    x, grad = torch.randn(1, 9, 16), torch.randn(1, 9, 16)
    for ours, theirs in zip(formulas.in_use().d_swiglu(grad, x, grad), EAGER.d_swiglu(grad, x, grad), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
