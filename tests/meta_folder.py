"""Random Llama models in Meta's layout, and what they compute, written from Meta's description and not from ours.

``write_meta`` cuts a model for N GPUs into ``consolidated.NN.pth``; ``forward`` runs the uncut tensors with rotary
embedding on neighbouring pairs, as complex numbers, and with key and value heads repeated for grouped queries.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

BY_COLUMNS = ("attention.wo", "feed_forward.w2")


def meta_params(**changes: Any) -> dict[str, Any]:
    """``params.json`` of a model of 64 numbers and 2 layers."""
    return {
        "dim": 64, "multiple_of": 32, "n_heads": 8, "n_layers": 2, "norm_eps": 1e-5, "vocab_size": -1,
    } | changes  # fmt: skip


def meta_tensors(
    params: dict[str, Any], vocab: int, *, seed: int = 0, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """Seeded random weights by Meta's names."""
    dim, heads = params["dim"], params["n_heads"]
    kv = params.get("n_kv_heads", heads) * (dim // heads)
    width = int(8 * dim / 3)
    width = int(params.get("ffn_dim_multiplier", 1) * width)
    inner = -(-width // params["multiple_of"]) * params["multiple_of"]
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return (torch.randn(shape, generator=generator) / shape[-1] ** 0.5).to(dtype)

    tensors = {f"{name}.weight": draw(vocab, dim) for name in ("tok_embeddings", "output")}
    tensors["norm.weight"] = 1 + draw(dim)
    shapes = {
        "attention.wq": (dim, dim), "attention.wk": (kv, dim), "attention.wv": (kv, dim), "attention.wo": (dim, dim),
        "feed_forward.w1": (inner, dim), "feed_forward.w2": (dim, inner), "feed_forward.w3": (inner, dim),
    }  # fmt: skip
    for layer in range(params["n_layers"]):
        for name, shape in shapes.items():
            tensors[f"layers.{layer}.{name}.weight"] = draw(*shape)
        for name in ("attention_norm", "ffn_norm"):
            tensors[f"layers.{layer}.{name}.weight"] = 1 + draw(dim)
    tensors["rope.freqs"] = 1 / 10000 ** (torch.arange(0, dim // heads, 2) / (dim // heads))
    return tensors


def write_meta(
    folder: Path, params: dict[str, Any], tensors: dict[str, Tensor], tokenizer: Path, *, shards: int = 1,
    embedding_axis: int = 1, checklist: bool = True,
) -> Path:  # fmt: skip
    """``folder`` as it comes from Meta. ``embedding_axis``: 1 as Llama 2 cuts its embedding, 0 as Llama 3 does."""
    folder.mkdir(parents=True)

    def part(name: str, number: int) -> Tensor:
        tensor = tensors[name]
        if tensor.dim() == 1:
            return tensor
        is_embedding = name.startswith("tok_embeddings")
        axis = embedding_axis if is_embedding else int(any(columns in name for columns in BY_COLUMNS))
        return tensor.chunk(shards, axis)[number].clone()

    for number in range(shards):
        torch.save({name: part(name, number) for name in tensors}, folder / f"consolidated.{number:02d}.pth")
    (folder / "params.json").write_text(json.dumps(params), encoding="utf-8")
    shutil.copyfile(tokenizer, folder / "tokenizer.model")
    if checklist:
        lines = [f"{hashlib.md5(path.read_bytes()).hexdigest()}  {path.name}\n" for path in sorted(folder.iterdir())]
        (folder / "checklist.chk").write_text("".join(lines), encoding="utf-8")
    return folder


def frequencies(params: dict[str, Any]) -> Tensor:
    """(head/2): how far each pair turns from one position to the next, with Llama 3.1's stretching where asked for."""
    head = params["dim"] // params["n_heads"]
    plain = params.get("rope_theta", 10000.0) ** (-torch.arange(0, head, 2, dtype=torch.float64) / head)
    if not params.get("use_scaled_rope"):
        return plain
    factor = params.get("rope_scaling_factor", 32.0 if params["dim"] <= 3072 else 8.0)
    turns = 8192 * plain / (2 * torch.pi)  # in the context it was trained on first
    share = ((turns - 1) / (4 - 1)).clamp(0, 1)
    return plain / factor * (1 - share) + plain * share


def forward(params: dict[str, Any], tensors: dict[str, Tensor], tokens_T: Tensor) -> Tensor:
    """Logits (T, V)."""
    heads, kv_heads = params["n_heads"], params.get("n_kv_heads", params["n_heads"])
    length = len(tokens_T)
    angles = torch.outer(torch.arange(length, dtype=torch.float64), frequencies(params))
    turn = torch.polar(torch.ones_like(angles), angles)[:, None].to(torch.complex64)

    def norm(x: Tensor, weight: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + params["norm_eps"]) * weight

    def turned(x: Tensor) -> Tensor:
        pairs = torch.view_as_complex(x.reshape(length, -1, x.shape[-1] // 2, 2))
        return torch.view_as_real(pairs * turn).flatten(2)

    x = tensors["tok_embeddings.weight"][tokens_T]
    for layer in range(params["n_layers"]):
        w = {n.removeprefix(f"layers.{layer}."): t for n, t in tensors.items() if n.startswith(f"layers.{layer}.")}
        h = norm(x, w["attention_norm.weight"])
        q = turned((h @ w["attention.wq.weight"].T).view(length, heads, -1))
        k = turned((h @ w["attention.wk.weight"].T).view(length, kv_heads, -1)).repeat_interleave(heads // kv_heads, 1)
        v = (h @ w["attention.wv.weight"].T).view(length, kv_heads, -1).repeat_interleave(heads // kv_heads, 1)
        scores = torch.einsum("qhd,khd->hqk", q, k) / q.shape[-1] ** 0.5
        scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), -torch.inf)
        mixed = torch.einsum("hqk,khd->qhd", scores.softmax(-1), v).reshape(length, -1)
        x = x + mixed @ w["attention.wo.weight"].T
        h = norm(x, w["ffn_norm.weight"])
        gate = functional.silu(h @ w["feed_forward.w1.weight"].T) * (h @ w["feed_forward.w3.weight"].T)
        x = x + gate @ w["feed_forward.w2.weight"].T
    return norm(x, tensors["norm.weight"]) @ tensors["output.weight"].T
