"""Attention inside the documents of a packed row: no document sees another.

On a CPU, documents of like length are batched matrix products: with torch 2.13 on two AVX512-BF16 cores, 28 chats of 40
tokens in bf16 take a tenth of the time of ``scaled_dot_product_attention`` and its backward pass (docs/decisions.md).
On a card it is torch's varlen kernel, with lengths as Python numbers so that no layer waits for the device (trap D10).

Shape letters: T tokens of the row, H heads, K key heads, E head width; N documents x heads, L document, M keys seen.
Source of the gradients: Dao et al., FlashAttention (2022), appendix B.2.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from hantune.data.batch import Documents
from hantune.models.call import evaluating
from hantune.models.grouped import grouped

NAME = "hantune"
"""Under which transformers knows this attention."""

TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""How far the hidden states of a packed row may lie from those of its documents alone, relative."""

BLOCK_ROWS = 256
"""Longer documents go through in blocks of so many queries, whose probabilities are computed again going back."""


UNKNOWN = ("softcap", "s_aux", "position_bias")
"""What some families ask of attention beside a scale, and is not done here."""


def use(model: Any, *, longest: int) -> bool:
    """Whether packed rows go through this attention from now on: proven on this model, else nothing is changed.

    ``longest``: tokens of the longest document to come. All other calls go to transformers' sdpa as before.
    """
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    text = model.config.get_text_config()
    window = getattr(text, "sliding_window", None)
    if text._attn_implementation != "sdpa" or getattr(text, "attention_dropout", 0) or (window and window < longest):
        return False
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    alone = _hidden(model, (6,), (4,))
    if alone is not None:
        model.set_attn_implementation(NAME)
        together = _hidden(model, (6, 4))
        if together is not None and (together - alone).norm() < TOLERANCE[model.dtype] * alone.norm():
            return True
        model.set_attn_implementation("sdpa")
    return False


def _hidden(model: Any, *rows: tuple[int, ...]) -> Tensor | None:
    """The last hidden states of ten tokens laid out in ``rows`` of documents; None if the model cannot take them so."""
    tokens_T = torch.arange(10, device=model.device)
    parts = []
    for lengths in rows:
        ids, tokens_T = tokens_T[: sum(lengths)], tokens_T[sum(lengths) :]
        places = [place for length in lengths for place in range(length)]
        inputs: dict[str, Any] = {"position_ids": torch.tensor([places], device=model.device)}
        if model.config._attn_implementation == NAME:
            documents = Documents.of(lengths).to(model.device)
            inputs |= packed_inputs(documents, ids)
        with evaluating(model), torch.no_grad():
            try:
                parts.append(model.base_model(input_ids=ids[None], use_cache=False, **inputs)[0][0].float())
            except (RuntimeError, TypeError, ValueError, NotImplementedError):
                return None
    return torch.cat(parts)


def packed_inputs(documents: Documents, like: Tensor) -> dict[str, Any]:
    """Arguments that take a packed row through ``attention``; a mask of four dimensions keeps transformers' away."""
    return {"documents": documents, "attention_mask": like.new_empty(1, 1, 0, 0)}


def attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    documents: Documents | None = None,
    **rest: Any,
) -> tuple[Tensor, None]:
    """The heads' outputs, shape [1, T, H, E], as ``AttentionInterface`` wants them; inputs have shape [1, H, T, E]."""
    if documents is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(  # type: ignore[no-any-return]
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **rest
        )
    if any(rest.get(name) is not None for name in UNKNOWN):
        raise NotImplementedError(f"packed attention with one of {UNKNOWN}")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    q_THE, k_TKE, v_TKE = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    return attend(q_THE, k_TKE, v_TKE, documents, scale).unsqueeze(0), None


def attend(q_THE: Tensor, k_TKE: Tensor, v_TKE: Tensor, documents: Documents, scale: float) -> Tensor:
    """Causal attention inside each document, shape [T, H, E]."""
    if _rehearses_a_card:
        return torch.as_tensor(_AsOnCard.apply(q_THE, k_TKE, v_TKE))  # type: ignore[no-untyped-call]
    if q_THE.device.type == "cuda":
        from torch.nn.attention.varlen import varlen_attn

        out = varlen_attn(
            q_THE,
            k_TKE,
            v_TKE,
            documents.offsets,
            documents.offsets,
            documents.longest,
            documents.longest,
            scale=scale,
            window_size=(-1, 0),
            enable_gqa=q_THE.shape[1] != k_TKE.shape[1],
        )
        return torch.as_tensor(out)
    return torch.as_tensor(_Attend.apply(q_THE, k_TKE, v_TKE, documents.lengths, scale))  # type: ignore[no-untyped-call]


_rehearses_a_card = False


@contextlib.contextmanager
def rehearsing_a_card() -> Iterator[None]:
    """Inside, ``attend`` computes nothing and holds what a card's kernel holds; for tensors without contents."""
    global _rehearses_a_card
    _rehearses_a_card = True
    try:
        yield
    finally:
        _rehearses_a_card = False


class _AsOnCard(torch.autograd.Function):
    """The tensors of ``varlen_attn``: inputs, output and a float32 sum for each head and token are kept."""

    @staticmethod
    def forward(ctx: Any, q_THE: Tensor, k_TKE: Tensor, v_TKE: Tensor) -> Tensor:
        out_THE = torch.empty(q_THE.shape, dtype=v_TKE.dtype, device=q_THE.device)
        sums_TH = torch.empty(q_THE.shape[:2], dtype=torch.float32, device=q_THE.device)
        ctx.save_for_backward(q_THE, k_TKE, v_TKE, out_THE, sums_TH)
        return out_THE

    @staticmethod
    def backward(ctx: Any, grad_THE: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(tensor) for tensor in ctx.saved_tensors[:3])


class _Attend(torch.autograd.Function):
    """Softmax attention of each document, those of like length together."""

    @staticmethod
    def forward(
        ctx: Any, q_THE: Tensor, k_TKE: Tensor, v_TKE: Tensor, lengths: tuple[int, ...], scale: float
    ) -> Tensor:
        heads, key_heads = q_THE.shape[1], k_TKE.shape[1]
        layout = grouped(lengths, heads, key_heads)
        q_PE, k_PE, v_PE = layout.queries(q_THE).mul_(scale), layout.keys(k_TKE), layout.keys(v_TKE)
        out_PE = torch.empty_like(q_PE)
        kept = []
        for places, length in layout.groups:
            q_NLE, k_NLE, v_NLE, out_NLE = (x[places].view(-1, length, x.shape[-1]) for x in (q_PE, k_PE, v_PE, out_PE))
            for start in range(0, length, BLOCK_ROWS):
                probabilities = _probabilities(q_NLE, k_NLE, start)
                block, seen = slice(start, start + BLOCK_ROWS), slice(0, start + BLOCK_ROWS)
                torch.bmm(probabilities, v_NLE[:, seen], out=out_NLE[:, block])
                if length <= BLOCK_ROWS:
                    kept.append(probabilities)
        ctx.save_for_backward(q_PE, k_TKE, v_TKE, *kept)  # shared keys are repeated again rather than kept repeated
        ctx.layout, ctx.heads, ctx.key_heads, ctx.scale = layout, heads, key_heads, scale
        return layout.back(out_PE, heads)

    @staticmethod
    def backward(ctx: Any, grad_THE: Tensor) -> tuple[Tensor | None, ...]:
        q_PE, k_TKE, v_TKE, *kept = ctx.saved_tensors
        probabilities = iter(kept)
        inputs = (q_PE, ctx.layout.keys(k_TKE), ctx.layout.keys(v_TKE), ctx.layout.gradients(grad_THE))
        tensors = [*inputs, *(torch.empty_like(q_PE) for _ in range(3))]
        for places, length in ctx.layout.groups:
            views = tuple(x[places].view(-1, length, x.shape[-1]) for x in tensors)
            if length <= BLOCK_ROWS:
                _gradients(next(probabilities), *views)
            else:
                _gradients_in_blocks(*views)
        d_q, d_k, d_v = (ctx.layout.back(grad, ctx.heads) for grad in tensors[4:])
        return d_q.mul_(ctx.scale), _summed(d_k, ctx.key_heads), _summed(d_v, ctx.key_heads), None, None


def _gradients(
    probabilities: Tensor, q: Tensor, k: Tensor, v: Tensor, d_out: Tensor, d_q: Tensor, d_k: Tensor, d_v: Tensor
) -> None:
    """Write the gradients of queries (already scaled), keys and values, all of shape [N, L, E]."""
    d_scores = _d_scores(probabilities, d_out, v)
    torch.bmm(d_scores, k, out=d_q)
    torch.bmm(d_scores.transpose(1, 2), q, out=d_k)
    torch.bmm(probabilities.transpose(1, 2), d_out, out=d_v)


def _gradients_in_blocks(
    q: Tensor, k: Tensor, v: Tensor, d_out: Tensor, d_q: Tensor, d_k: Tensor, d_v: Tensor
) -> None:
    """The same for documents whose probabilities were not kept."""
    d_k.zero_()
    d_v.zero_()
    for start in range(0, q.shape[1], BLOCK_ROWS):
        block, seen = slice(start, start + BLOCK_ROWS), slice(0, start + BLOCK_ROWS)
        probabilities = _probabilities(q, k, start)
        d_scores = _d_scores(probabilities, d_out[:, block], v[:, seen])
        d_q[:, block] = torch.bmm(d_scores, k[:, seen])
        d_k[:, seen] += torch.bmm(d_scores.transpose(1, 2), q[:, block])
        d_v[:, seen] += torch.bmm(probabilities.transpose(1, 2), d_out[:, block])


def _probabilities(q_NLE: Tensor, k_NLE: Tensor, start: int) -> Tensor:
    """How much the queries of the block at ``start`` look at each key up to them, shape [N, rows, M]."""
    queries = q_NLE[:, start : start + BLOCK_ROWS]
    scores = torch.bmm(queries, k_NLE[:, : start + BLOCK_ROWS].transpose(1, 2))
    scores[:, :, start:] += _future(queries.shape[1], scores.dtype, scores.device)
    return torch.softmax(scores, -1)


def _d_scores(probabilities: Tensor, d_out: Tensor, values: Tensor) -> Tensor:
    """The gradient before the softmax, from the one behind the values."""
    d_probabilities = torch.bmm(d_out, values.transpose(1, 2))
    return torch._softmax_backward_data(d_probabilities, probabilities, -1, probabilities.dtype)


@lru_cache(maxsize=64)
def _future(rows: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """-inf where a query would look ahead, shape [rows, rows]."""
    return torch.full((rows, rows), -torch.inf, dtype=dtype, device=device).triu_(1)


def _summed(grad_THE: Tensor, key_heads: int) -> Tensor:
    """Gradients of key heads from those of the queries that share them."""
    tokens, heads, width = grad_THE.shape
    return grad_THE if heads == key_heads else grad_THE.view(tokens, key_heads, -1, width).sum(2)
