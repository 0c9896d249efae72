"""Meta's layout: what ``params.json`` says, and what the slices make. The forward law is in test_convert."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from hantune.errors import ModelError
from hantune.models.convert.meta import MetaModel, halves_apart, read_params, shard_paths
from tests.meta_folder import meta_params, meta_tensors, write_meta


def params_of(tmp_path: Path, **values: Any) -> Any:
    path = tmp_path / "params.json"
    path.write_text(json.dumps(values), encoding="utf-8")
    return read_params(path)


@pytest.mark.parametrize(
    ("dim", "heads", "layers", "more", "inner"),
    [
        (4096, 32, 32, {"multiple_of": 256}, 11008),
        (5120, 40, 40, {"multiple_of": 256}, 13824),
        (8192, 64, 80, {"multiple_of": 4096, "ffn_dim_multiplier": 1.3, "n_kv_heads": 8}, 28672),
        (4096, 32, 32, {"multiple_of": 1024, "ffn_dim_multiplier": 1.3, "n_kv_heads": 8}, 14336),
        (2048, 32, 16, {"multiple_of": 256, "ffn_dim_multiplier": 1.5}, 8192),
    ],
)
def test_the_widths_of_the_released_models(
    tmp_path: Path, dim: int, heads: int, layers: int, more: dict[str, Any], inner: int
) -> None:
    params = params_of(tmp_path, dim=dim, n_heads=heads, n_layers=layers, norm_eps=1e-6, vocab_size=-1, **more)
    assert params.inner == inner
    assert (params.vocab_size, params.norm_eps, params.rope_theta) == (None, 1e-6, 10000.0)
    assert params.n_kv_heads == more.get("n_kv_heads", heads)


@pytest.mark.parametrize(
    "changes",
    [
        {"dim": 10**9}, {"n_layers": 10**5}, {"n_heads": 0}, {"norm_eps": "1e-5"}, {"norm_eps": None},
        {"rope_theta": float("nan")}, {"vocab_size": -2}, {"n_kv_heads": 3}, {"n_heads": True},
        {"dim": 24, "n_heads": 8},
    ],
)  # fmt: skip
def test_numbers_that_cannot_be_are_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(ModelError) as caught:
        params_of(tmp_path, **meta_params() | changes)
    assert caught.value.code == "model.bad-params"


def test_a_huge_or_deep_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "params.json"
    for text in ("[" * 500_000, '{"a": "' + "x" * 2_000_000 + '"}', ""):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ModelError, match="bad-params"):
            read_params(path)


def test_pairs_become_halves() -> None:
    weight = torch.arange(2 * 6).view(-1, 1)
    assert halves_apart(weight, 2).flatten().tolist() == [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]


@pytest.mark.parametrize(("axis", "shards"), [(0, 2), (1, 2), (1, 4), (1, 1)])
def test_slices_make_the_whole(tmp_path: Path, sentencepiece_model: Path, axis: int, shards: int) -> None:
    params = meta_params()
    tensors = meta_tensors(params, 640)
    model = MetaModel(
        write_meta(tmp_path / "m", params, tensors, sentencepiece_model, shards=shards, embedding_axis=axis)
    )
    same = {
        "model.embed_tokens.weight": "tok_embeddings", "lm_head.weight": "output", "model.norm.weight": "norm",
        "model.layers.1.self_attn.o_proj.weight": "layers.1.attention.wo",
        "model.layers.0.mlp.down_proj.weight": "layers.0.feed_forward.w2",
        "model.layers.1.mlp.gate_proj.weight": "layers.1.feed_forward.w1",
        "model.layers.0.post_attention_layernorm.weight": "layers.0.ffn_norm",
    }  # fmt: skip
    for name, origin in same.items():
        assert torch.equal(model.tensor_of(name), tensors[f"{origin}.weight"])
        assert model.specs[name].shape == tuple(tensors[f"{origin}.weight"].shape)
    assert len(model.specs) == len(tensors) - 1  # the table of the rotary embedding is computed
    model.close()


def test_a_model_without_a_head_has_a_tied_one(tmp_path: Path, sentencepiece_model: Path) -> None:
    params = meta_params()
    tensors = {name: t for name, t in meta_tensors(params, 640).items() if name != "output.weight"}
    model = MetaModel(write_meta(tmp_path / "m", params, tensors, sentencepiece_model))
    assert model.config()["tie_word_embeddings"] is True
    model.close()


@pytest.mark.parametrize(
    ("changes", "vocab", "dtype", "context"),
    [
        ({}, 640, torch.float16, 2048),
        ({}, 640, torch.bfloat16, 4096),
        ({"rope_theta": 1e6}, 640, torch.bfloat16, 16384),
        ({"rope_theta": 5e5}, 128256, torch.bfloat16, 8192),
        ({"rope_theta": 5e5, "use_scaled_rope": True}, 640, torch.bfloat16, 131072),
        ({"max_seq_len": 512}, 640, torch.float16, 512),
    ],
)
def test_each_generation_has_its_context(
    tmp_path: Path, sentencepiece_model: Path, changes: dict[str, Any], vocab: int, dtype: torch.dtype, context: int
) -> None:
    params = meta_params(dim=16, n_heads=4, n_layers=1, **changes)
    folder = write_meta(tmp_path / "m", params, meta_tensors(params, vocab, dtype=dtype), sentencepiece_model)
    model = MetaModel(folder)
    assert model.context == context
    scaling = model.config()["rope_scaling"]
    assert (scaling is None) == ("use_scaled_rope" not in changes)
    model.close()


def test_unknown_tensors_are_refused(tmp_path: Path, sentencepiece_model: Path) -> None:
    params = meta_params()
    tensors = meta_tensors(params, 640) | {"vision.w": torch.ones(2, 2)}
    with pytest.raises(ModelError, match=r"vision\.w") as caught:
        MetaModel(write_meta(tmp_path / "m", params, tensors, sentencepiece_model))
    assert caught.value.code == "model.params-mismatch"


def test_files_are_found_in_order_and_without_a_gap(tmp_path: Path) -> None:
    for number in (1, 0):
        (tmp_path / f"consolidated.{number:02d}.pth").touch()
    assert [path.name for path in shard_paths(tmp_path)] == ["consolidated.00.pth", "consolidated.01.pth"]
    (tmp_path / "consolidated.03.pth").touch()
    with pytest.raises(ModelError, match=r"consolidated\.02\.pth"):
        shard_paths(tmp_path)
