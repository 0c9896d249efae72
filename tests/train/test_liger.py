"""Liger's kernels: what is called with what, and that one which does otherwise is left out. Not run on a card here."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hantune.config.schema import AdapterSection
from hantune.data.batch import collate
from hantune.data.types import Example
from hantune.models import head as heads
from hantune.models.adapter import attach_lora
from hantune.models.loss import supervised_nats
from hantune.train import liger as module
from hantune.train.liger import use_liger
from hantune.train.lora_kernels import fuse_lora

CARD = torch.device("cuda")
ALL = ("RMSNorm", "SwiGLU", "RoPE", "CrossEntropy")


def rms_norm(x: Tensor, weight: Tensor, eps: float, offset: float, casting_mode: str, in_place: bool) -> Tensor:
    assert (offset, casting_mode, in_place) == (0.0, "llama", False)
    return weight * (x.float() * torch.rsqrt(x.float().square().mean(-1, keepdim=True) + eps)).to(x.dtype)


def swiglu(a: Tensor, b: Tensor) -> Tensor:
    return F.silu(a) * b


def cross_entropy(
    rows: Tensor, weight: Tensor, target: Tensor, bias: Tensor | None = None, label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Tensor:  # fmt: skip
    calls.append("CrossEntropy")
    return F.cross_entropy(
        F.linear(rows, weight, bias).float(), target, reduction=reduction, label_smoothing=label_smoothing
    )


calls: list[str] = []


@pytest.fixture
def liger(monkeypatch: pytest.MonkeyPatch) -> Any:
    """liger_kernel.transformers.functional as far as it is used, in plain torch."""
    found: Any = ModuleType("liger_kernel.transformers.functional")
    found.liger_rms_norm, found.liger_swiglu = rms_norm, swiglu
    found.liger_fused_linear_cross_entropy = cross_entropy
    found.liger_rope = lambda *given: pytest.fail("only for tensors on a card")
    for name in ("liger_kernel", "liger_kernel.transformers"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, found.__name__, found)
    monkeypatch.setattr(module.metadata, "version", lambda name: "0.8.5")
    from transformers.models.llama import modeling_llama

    monkeypatch.setattr(modeling_llama, "apply_rotary_pos_emb", modeling_llama.apply_rotary_pos_emb)
    calls.clear()
    return found


@pytest.fixture
def make(tiny_llama: Callable[..., Any], sp_tokenizer: Any) -> Callable[[], Any]:
    def tuned() -> Any:
        model = attach_lora(tiny_llama(sp_tokenizer), AdapterSection(rank=4), seed=0)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(len(name)))
        fuse_lora(model)
        return model.train()

    return tuned


def outcome(model: Any) -> dict[str, Tensor]:
    examples = [Example(ids=tuple(range(5, 17)), mask=(0,) * 5 + (1,) * 7)]
    nats, _ = supervised_nats(model, collate(examples, layout="packed", pad_id=3), smoothing=0.1)
    nats.backward()  # type: ignore[no-untyped-call]
    return {"nats": nats.detach(), **{n: p.grad for n, p in model.named_parameters() if p.grad is not None}}


def test_every_kernel_is_taken_and_changes_nothing(make: Callable[[], Any], liger: Any) -> None:
    expected, model = outcome(make()), make()
    kernels = use_liger(model, CARD)
    assert kernels.names == ALL
    assert kernels.reason == "liger-kernel 0.8.5"
    assert all(p.grad is None for p in model.parameters()), "the trial leaves no gradient behind"
    calls.clear()
    found = outcome(model)
    assert calls == ["CrossEntropy"]
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        model(input_ids=torch.tensor([[1, 5]]))
    assert calls == ["CrossEntropy"], "evaluation keeps its own loss"


def broken(*given: Any, **named: Any) -> Tensor:
    raise RuntimeError("PTX was compiled with an unsupported toolchain")


@pytest.mark.parametrize(
    ("attribute", "other", "name"),
    [
        ("liger_rms_norm", lambda x, weight, eps, *rest: rms_norm(x, weight, 0.1, *rest), "RMSNorm"),
        ("liger_swiglu", lambda a, b: F.gelu(a) * b, "SwiGLU"),
        ("liger_fused_linear_cross_entropy", lambda rows, weight, target, *rest, **named: rows.sum(), "CrossEntropy"),
        ("liger_rms_norm", broken, "RMSNorm"),
        ("liger_fused_linear_cross_entropy", broken, "CrossEntropy"),
    ],
)
def test_a_kernel_that_fails_or_differs_is_left_out(
    attribute: str, other: Any, name: str, make: Callable[[], Any], liger: Any
) -> None:
    setattr(liger, attribute, other)
    expected, model = outcome(make()), make()
    kernels = use_liger(model, CARD)
    assert set(kernels.names) == set(ALL) - {name}
    assert name in kernels.reason
    torch.testing.assert_close(outcome(model)["nats"], expected["nats"], rtol=1e-5, atol=1e-5)


def test_other_families_keep_their_own_code(tiny_bloom: Callable[..., Any], byte_tokenizer: Any, liger: Any) -> None:
    kernels = use_liger(tiny_bloom(byte_tokenizer), CARD)
    assert set(kernels.names) <= {"CrossEntropy"}
    assert "RMSNorm" in kernels.reason


def test_without_the_library_or_a_card_nothing_changes(
    make: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "liger_kernel", None)
    model = make()
    for device in (CARD, torch.device("cpu")):
        kernels = use_liger(model, device)
        assert kernels.names == ()
        kernels.reason.encode("gbk")
    assert "pip install" in use_liger(model, CARD).reason
    assert heads.summed_cross_entropy(model.get_output_embeddings(), torch.randn(0, 64), torch.zeros(0).long()) == 0
