"""Packed attention is the attention of each document alone: outputs, gradients, and on a whole model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hantune.data.batch import Documents
from hantune.models import attention
from hantune.models.attention import NAME, attend, use
from tests.laws import examples


def alone(q_THE: Tensor, k_TKE: Tensor, v_TKE: Tensor, lengths: tuple[int, ...]) -> Tensor:
    """Each document by torch's own attention."""
    parts = zip(*(tensor.split(lengths) for tensor in (q_THE, k_TKE, v_TKE)), strict=True)
    outputs = [
        F.scaled_dot_product_attention(
            *(part.transpose(0, 1) for part in three), is_causal=True, scale=0.3, enable_gqa=True
        ).transpose(0, 1)
        for three in parts
    ]
    return torch.cat(outputs)


@examples(8, 25)
@given(st.lists(st.integers(1, 11), min_size=1, max_size=6), st.sampled_from([1, 2, 4]), st.sampled_from([3, 256]))
def test_outputs_and_gradients_are_those_of_the_documents(lengths: list[int], key_heads: int, block: int) -> None:
    torch.manual_seed(0)
    total = sum(lengths)
    tensors = [torch.randn(total, heads, 5, dtype=torch.float64) for heads in (4, key_heads, key_heads)]
    tensors = [tensor.requires_grad_() for tensor in tensors]
    weights = torch.randn(total, 4, 5, dtype=torch.float64)
    expected = alone(*tensors, tuple(lengths))
    wanted = torch.autograd.grad((expected * weights).sum(), tensors)
    rows, attention.BLOCK_ROWS = attention.BLOCK_ROWS, block
    try:
        found = attend(*tensors, Documents.of(lengths), 0.3)
        got = torch.autograd.grad((found * weights).sum(), tensors)
    finally:
        attention.BLOCK_ROWS = rows
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
    for ours, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)


def test_keys_that_queries_share_are_kept_once() -> None:
    q_THE, k_TKE = (torch.randn(20, heads, 5, requires_grad=True) for heads in (4, 1))
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        attend(q_THE, k_TKE, k_TKE, Documents.of([12, 8]), 0.3)
    assert [tuple(tensor.shape) for tensor in kept].count((20, 1, 5)) == 2
    assert sum(tensor.shape[-1] == 5 and tensor.numel() > 20 * 5 for tensor in kept) == 1


def test_bf16_is_as_near_to_float64_as_torchs_own() -> None:
    torch.manual_seed(0)
    lengths = (40, 40, 17)
    exact = [torch.randn(97, 4, 16, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    low = [tensor.detach().bfloat16().requires_grad_() for tensor in exact]
    expected = alone(*exact, lengths)
    wanted = torch.autograd.grad(expected.square().sum(), exact)
    found = attend(*low, Documents.of(lengths), 0.3)
    got = torch.autograd.grad(found.float().square().sum(), low)
    for ours, theirs in ((found, expected), *zip(got, wanted, strict=True)):
        assert (ours.double() - theirs).norm() < 0.02 * theirs.norm()


def test_a_llama_takes_it_and_other_calls_are_sdpas(tiny_llama: Callable[..., Any], sp_tokenizer: Any) -> None:
    model, plain = tiny_llama(sp_tokenizer), tiny_llama(sp_tokenizer)
    assert use(model, longest=64)
    assert model.config._attn_implementation == NAME
    assert use(tiny_llama(sp_tokenizer, sliding_window=64), longest=64), "a window that shows all there is"
    tokens, mask = torch.arange(4, 16).view(2, 6), torch.tensor([[0, 0, 1, 1, 1, 1], [1] * 6])
    with torch.no_grad():
        for arguments in ({}, {"attention_mask": mask}, {"use_cache": False}):
            torch.testing.assert_close(model(tokens, **arguments).logits, plain(tokens, **arguments).logits)


def test_the_scale_is_the_models_own_or_that_of_the_head_width() -> None:
    q, k, v = torch.randn(3, 1, 2, 7, 4).unbind()
    documents = Documents.of([7])
    for asked, scale in ((0.3, 0.3), (None, 0.5)):
        found, _ = attention.attention(None, q, k, v, None, scaling=asked, documents=documents)
        expected = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale).transpose(1, 2)
        torch.testing.assert_close(found, expected)


def test_a_document_cannot_see_another(tiny_llama: Callable[..., Any], sp_tokenizer: Any) -> None:
    model = tiny_llama(sp_tokenizer)
    assert use(model, longest=64)

    def hidden(first: list[int]) -> Tensor:
        tokens = torch.tensor([[*first, 9, 10, 11]])
        places = torch.tensor([[*range(len(first)), 0, 1, 2]])
        inputs = attention.packed_inputs(Documents.of([len(first), 3]), tokens)
        with torch.no_grad():
            return model.model(tokens, position_ids=places, use_cache=False, **inputs)[0][0, -3:]

    assert torch.equal(hidden([4, 5, 6]), hidden([7, 8, 4]))


@pytest.mark.parametrize(
    "changes", [{"attention_dropout": 0.1}, {"attn_implementation": "eager"}, {"sliding_window": 8}]
)
def test_models_that_ask_for_more_keep_their_own(
    tiny_llama: Callable[..., Any], sp_tokenizer: Any, changes: dict[str, Any]
) -> None:
    model = tiny_llama(sp_tokenizer, **changes)
    before = model.config._attn_implementation
    assert not use(model, longest=64)
    assert model.config._attn_implementation == before


def test_bloom_keeps_its_own(tiny_bloom: Callable[..., Any], byte_tokenizer: Any) -> None:
    assert not use(tiny_bloom(byte_tokenizer), longest=64)


def test_a_model_that_comes_out_different_keeps_its_own(
    tiny_llama: Callable[..., Any], sp_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_llama(sp_tokenizer)
    monkeypatch.setattr(attention, "attend", lambda q, k, v, documents, scale: q)
    assert not use(model, longest=64)
    assert model.config._attn_implementation == "sdpa"


def test_what_is_not_done_here_is_refused() -> None:
    q = torch.zeros(1, 2, 3, 4)
    with pytest.raises(NotImplementedError):
        attention.attention(None, q, q, q, None, documents=Documents.of([3]), softcap=30.0)
