"""Fused norms, MLPs and attention layers give what transformers' own give: outputs and gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hantune.config.schema import AdapterSection
from hantune.data.batch import Batch, collate
from hantune.models.adapter import attach_lora
from hantune.models.attention import use
from hantune.models.loss import supervised_nats
from hantune.train.lora_kernels import fuse_lora
from hantune.train.pointwise import _RmsNorm, _SwiGlu, fuse_attention, fuse_pointwise, rotate
from tests.train.test_loop import Chats


def gradients(output: Tensor, inputs: list[Tensor]) -> tuple[Tensor, ...]:
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    return torch.autograd.grad((output * weights).sum(), inputs)


def test_rms_norm() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(2, 3, 8, requires_grad=True), torch.randn(8, requires_grad=True)
    expected = weight * (x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt())
    found: Tensor = _RmsNorm.apply(x, weight, 1e-5)  # type: ignore[no-untyped-call]
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
    for ours, theirs in zip(gradients(found, [x, weight]), gradients(expected, [x, weight]), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_swiglu() -> None:
    torch.manual_seed(0)
    gate, up = (torch.randn(4, 6, requires_grad=True) for _ in range(2))
    expected = nn.functional.silu(gate) * up
    found: Tensor = _SwiGlu.apply(gate, up)  # type: ignore[no-untyped-call]
    torch.testing.assert_close(found, expected)
    for ours, theirs in zip(gradients(found, [gate, up]), gradients(expected, [gate, up]), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_rotation_is_transformers() -> None:
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    torch.manual_seed(0)
    x, angles = torch.randn(7, 3, 8, requires_grad=True), torch.randn(7, 4).repeat(1, 2)
    cos, sin = angles.cos(), angles.sin()
    expected = apply_rotary_pos_emb(x.transpose(0, 1)[None], x.transpose(0, 1)[None], cos[None], sin[None])[0]
    expected = expected[0].transpose(0, 1)
    torch.testing.assert_close(rotate(x, cos, sin), expected)
    torch.testing.assert_close(gradients(rotate(x, cos, sin), [x]), gradients(expected, [x]))


def outcome(model: Any, batch: Batch) -> dict[str, Tensor]:
    """Loss and gradients."""
    model.zero_grad()
    nats, _ = supervised_nats(model, batch)
    nats.backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {"nats": nats.detach(), **grads}


def tuned(model: Any, targets: Any = "all-linear") -> Any:
    made = attach_lora(model, AdapterSection(rank=4, targets=targets), seed=0)
    torch.manual_seed(0)
    for name, parameter in made.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    return made


@pytest.mark.parametrize("layout", ["packed", "sorted"])
@pytest.mark.parametrize("kind", ["lora", "some-lora", "full"])
@pytest.mark.parametrize("changes", [{}, {"num_key_value_heads": 1, "num_attention_heads": 4, "attention_bias": True}])
def test_the_whole_fast_path_is_pefts_and_transformers(
    tiny_llama: Callable[..., Any], sp_tokenizer: Any, layout: str, kind: str, changes: dict[str, Any]
) -> None:
    """The bar of the fused path: loss and gradients within 1e-5 of the plain float32 ones, each norm by itself."""
    targets = ("q_proj", "v_proj", "down_proj") if kind == "some-lora" else "all-linear"
    results = []
    for is_fast in (False, True):
        model = tiny_llama(sp_tokenizer, **changes)
        if is_fast:
            assert use(model, longest=64)
        if kind != "full":
            model = tuned(model, targets)
        if is_fast:
            fuse_lora(model)
            assert fuse_pointwise(model) == 2 * 3 + 1
            assert fuse_attention(model) == 2
        batch = collate(Chats(6).examples, layout=layout if is_fast else "sorted", pad_id=3)  # type: ignore[arg-type]
        results.append(outcome(model, batch))
    plain, fast = results
    assert plain.keys() == fast.keys()
    for name, value in plain.items():
        assert float((fast[name] - value).norm()) <= 1e-5 * float(value.norm()) + 1e-7, name


def test_twenty_steps_give_the_same_losses(tiny_llama: Callable[..., Any], sp_tokenizer: Any) -> None:
    histories = []
    for is_fast in (False, True):
        model = tiny_llama(sp_tokenizer)
        assert not is_fast or use(model, longest=64)
        model = attach_lora(model, AdapterSection(rank=4), seed=0)
        if is_fast:
            fuse_lora(model), fuse_pointwise(model), fuse_attention(model)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
        batch = collate(Chats(6).examples, layout="packed" if is_fast else "sorted", pad_id=3)
        losses = []
        for _ in range(20):
            nats, count = supervised_nats(model, batch)
            (nats / count).backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(float(nats.detach()) / count)
        histories.append(losses)
    assert histories[0][-1] < histories[0][0] - 0.2
    assert histories[1] == pytest.approx(histories[0], rel=1e-4)


def test_adapters_off_and_generation_are_as_before(tiny_llama: Callable[..., Any], sp_tokenizer: Any) -> None:
    plain, fast = tuned(tiny_llama(sp_tokenizer)), tiny_llama(sp_tokenizer)
    assert use(fast, longest=64)
    fast = tuned(fast)
    fuse_lora(fast), fuse_pointwise(fast), fuse_attention(fast)
    tokens = torch.arange(4, 16).view(2, 6)
    with torch.no_grad():
        torch.testing.assert_close(fast(tokens).logits, plain(tokens).logits, rtol=1e-4, atol=1e-5)
        with fast.disable_adapter(), plain.disable_adapter():
            torch.testing.assert_close(fast(tokens).logits, plain(tokens).logits, rtol=1e-4, atol=1e-5)
    asked = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 3, "eos_token_id": None}
    assert torch.equal(fast.generate(input_ids=tokens, **asked), plain.generate(input_ids=tokens, **asked))


def test_modules_that_only_look_alike_are_left_alone_also_beside_a_real_one() -> None:
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    class OffsetRMSNorm(nn.Module):
        """Gemma's: the weight is an offset from one."""

        def __init__(self) -> None:
            super().__init__()
            self.weight, self.variance_epsilon = nn.Parameter(torch.full((4,), 0.5)), 1e-6

        def forward(self, x: Tensor) -> Tensor:
            return (1 + self.weight) * x / (x.square().mean(-1, keepdim=True) + self.variance_epsilon).sqrt()

    class GeluMlp(nn.Module):
        """Gemma's: another function of the gate."""

        def __init__(self) -> None:
            super().__init__()
            self.gate_proj, self.up_proj, self.down_proj = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 4)
            self.act_fn = nn.GELU()

        def forward(self, x: Tensor) -> Tensor:
            return torch.as_tensor(self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x)))

    modules = nn.ModuleList([LlamaRMSNorm(4), OffsetRMSNorm(), GeluMlp()])
    assert fuse_pointwise(modules) == 1
    assert ["forward" in vars(module) for module in modules] == [True, False, False]
