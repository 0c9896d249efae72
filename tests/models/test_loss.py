"""Laws of the loss: equal to that of the full logits, and what is not learned contributes exactly nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from hantune.data.batch import IGNORED, Batch, collate
from hantune.data.types import Example
from hantune.models import attention, head
from hantune.models.loss import is_head_last, supervised_nats

EXAMPLES = (
    Example(ids=(1, 300, 301, 302, 303, 304, 2), mask=(0, 0, 0, 1, 1, 1, 1)),
    Example(ids=(1, 310, 311, 2), mask=(0, 0, 1, 1)),
    Example(ids=(1, 320, 321, 322, 323), mask=(0, 1, 0, 0, 1)),
)


@pytest.fixture(params=["llama", "bloom", "llama-lora"])
def model(request: pytest.FixtureRequest, sp_tokenizer: Any, byte_tokenizer: Any) -> Any:
    if request.param == "bloom":
        return request.getfixturevalue("tiny_bloom")(byte_tokenizer, vocab_size=600)
    made = request.getfixturevalue("tiny_llama")(sp_tokenizer, vocab_size=600)
    if request.param == "llama-lora":
        from peft import LoraConfig, get_peft_model

        made = get_peft_model(made, LoraConfig(target_modules="all-linear", init_lora_weights=False))
    return made


@pytest.fixture
def batch() -> Batch:
    return collate(EXAMPLES, layout="sorted", pad_id=0)


def naive_nats(model: Any, batch: Batch) -> torch.Tensor:
    logits_BTV = model(
        input_ids=batch.tokens_BT, attention_mask=batch.mask_BT, use_cache=False,
        **({} if batch.positions_BT is None else {"position_ids": batch.positions_BT}),
    ).logits  # fmt: skip
    return F.cross_entropy(
        logits_BTV.flatten(0, 1).float(), batch.labels_BT.flatten(), ignore_index=IGNORED, reduction="sum"
    )


def gradients(model: Any, nats: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    nats.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("head_rows", [1024, 2])
def test_equals_the_loss_of_the_full_logits(
    model: Any, batch: Batch, head_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head, "CHUNK_ROWS", head_rows)
    nats, count = supervised_nats(model, batch)
    expected = naive_nats(model, batch)
    assert count == batch.num_supervised == 8
    assert nats.dtype == torch.float32
    torch.testing.assert_close(nats, expected, rtol=1e-6, atol=0)
    ours, theirs = gradients(model, nats), gradients(model, expected)
    assert ours.keys() == theirs.keys()
    assert ours
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, theirs[name], rtol=1e-4, atol=1e-5, msg=name)


def test_packed_documents_do_not_see_each_other(tiny_llama: Callable[..., Any], sp_tokenizer: Any) -> None:
    model = tiny_llama(sp_tokenizer)
    together, count = supervised_nats(model, collate(EXAMPLES, layout="packed", pad_id=0))
    alone = [supervised_nats(model, collate([example], layout="sorted", pad_id=0)) for example in EXAMPLES]
    assert count == sum(number for _, number in alone)
    torch.testing.assert_close(together, torch.stack([nats for nats, _ in alone]).sum(), rtol=1e-5, atol=0)


def test_packed_rows_take_the_attention_for_documents_and_padded_ones_do_not(
    tiny_llama: Callable[..., Any], sp_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, seen, attend = tiny_llama(sp_tokenizer), [], attention.attend
    assert attention.use(model, longest=64)
    monkeypatch.setattr(attention, "attend", lambda *given: seen.append(given[3].lengths) or attend(*given))
    for layout in ("sorted", "packed"):
        supervised_nats(model, collate(EXAMPLES, layout=layout, pad_id=0))
    assert seen == [(7, 4, 5)] * model.config.num_hidden_layers


def test_padding_contributes_no_bit(model: Any, batch: Batch) -> None:
    assert batch.mask_BT is not None
    other_pads = replace(batch, tokens_BT=torch.where(batch.mask_BT == 0, 77, batch.tokens_BT))
    first, _ = supervised_nats(model, batch)
    second, _ = supervised_nats(model, other_pads)
    assert torch.equal(first, second)
    ours, others = gradients(model, first), gradients(model, second)
    assert all(torch.equal(gradient, others[name]) for name, gradient in ours.items())


def test_what_follows_the_last_learned_token_contributes_no_bit(model: Any) -> None:
    first = collate([Example(ids=(1, 300, 301, 302, 303), mask=(0, 0, 1, 0, 0))], layout="sorted", pad_id=0)
    other = collate([Example(ids=(1, 300, 301, 55, 56), mask=(0, 0, 1, 0, 0))], layout="sorted", pad_id=0)
    nats = [supervised_nats(model, batch)[0] for batch in (first, other)]
    assert torch.equal(*nats)
    assert nats[0] > 0
    ours, others = gradients(model, nats[0]), gradients(model, nats[1])
    assert all(torch.equal(gradient, others[name]) for name, gradient in ours.items())


def test_nothing_to_learn_is_zero_with_a_gradient(model: Any) -> None:
    nats, count = supervised_nats(model, collate([Example(ids=(1, 5), mask=(0, 0))], layout="sorted", pad_id=0))
    assert (nats.item(), count) == (0.0, 0)
    assert all(not gradient.any() for gradient in gradients(model, nats).values())


def test_a_capped_or_scaled_head_is_found_out(batch: Batch) -> None:
    """Gemma 2 caps its logits, Granite divides them, Cohere multiplies them: the full logits are used there."""
    from transformers import Gemma2Config, Gemma2ForCausalLM, GraniteConfig, GraniteForCausalLM

    shape = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 1, "vocab_size": 400, "head_dim": 16,
    }  # fmt: skip
    torch.manual_seed(0)
    for model in (
        Gemma2ForCausalLM(Gemma2Config(**shape)),
        GraniteForCausalLM(GraniteConfig(**shape, logits_scaling=7)),
    ):
        model.eval()
        assert not is_head_last(model)
        nats, _ = supervised_nats(model, batch)
        torch.testing.assert_close(nats, naive_nats(model, batch), rtol=1e-6, atol=0)


def test_a_head_that_reads_scaled_rows_is_found_out(
    tiny_llama: Callable[..., Any], sp_tokenizer: Any, batch: Batch
) -> None:
    """MiniCPM divides what its head reads; the head's output alone would not tell."""
    model = tiny_llama(sp_tokenizer, vocab_size=600).requires_grad_(False)
    model.lm_head.register_forward_pre_hook(lambda module, inputs: (inputs[0] / 7,))
    assert not is_head_last(model)
    nats, _ = supervised_nats(model, batch)
    torch.testing.assert_close(nats, naive_nats(model, batch), rtol=1e-6, atol=0)


def test_the_probe_leaves_no_trace(tiny_llama: Callable[..., Any], sp_tokenizer: Any) -> None:
    model = tiny_llama(sp_tokenizer, attention_dropout=0.5).train()
    before = torch.get_rng_state()
    assert is_head_last(model)
    assert torch.equal(before, torch.get_rng_state())
    assert all(module.training for module in model.modules())
    assert not model.lm_head._forward_hooks


def test_half_precision_sums_in_float32(tiny_llama: Callable[..., Any], sp_tokenizer: Any, batch: Batch) -> None:
    model = tiny_llama(sp_tokenizer).to(torch.bfloat16)
    nats, _ = supervised_nats(model, batch)
    assert nats.dtype == torch.float32
    torch.testing.assert_close(nats, naive_nats(model, batch), rtol=1e-5, atol=0)
