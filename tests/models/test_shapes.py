"""The tensors that a config promises, against the models of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from hantune.errors import ModelError
from hantune.models.headers import TensorSpec
from hantune.models.shapes import expected_shapes, require_tensors

PLACE = Path("config.json")


@pytest.mark.parametrize(
    "changes",
    [
        {}, {"tie_word_embeddings": True}, {"num_key_value_heads": 4}, {"head_dim": 8}, {"attention_bias": True},
        {"mlp_bias": True, "num_hidden_layers": 3},
    ],
)  # fmt: skip
@pytest.mark.parametrize("family", ["tiny_llama", "tiny_bloom"])
def test_they_are_the_parameters_of_the_model(
    family: str, changes: dict[str, Any], byte_tokenizer: Any, request: pytest.FixtureRequest
) -> None:
    if family == "tiny_bloom" and not changes.keys() <= {"tie_word_embeddings"}:
        changes = {"n_layer": 3}
    model = request.getfixturevalue(family)(byte_tokenizer, **changes)
    expected = expected_shapes(model.config.to_dict(), PLACE)
    assert expected == {name: tuple(tensor.shape) for name, tensor in model.named_parameters()}


def test_other_families_are_left_to_transformers() -> None:
    assert expected_shapes({"model_type": "qwen3"}, PLACE) is None


@pytest.mark.parametrize("value", [0, -1, "9", 2**40, 10**5, None, 1.5, True])
def test_sizes_that_cannot_be_are_told_by_key(value: Any) -> None:
    config = {
        "model_type": "llama",
        "hidden_size": 8,
        "num_attention_heads": 2,
        "intermediate_size": 8,
        "vocab_size": 9,
    }
    with pytest.raises(ModelError, match="num_hidden_layers") as caught:
        expected_shapes(config | {"num_hidden_layers": value}, PLACE)
    assert caught.value.code == "model.bad-config"


def test_missing_wrong_and_extra_tensors_come_at_once() -> None:
    expected = {"model.a": (2,), "model.b": (3,), "model.c": (4,)}
    specs = {"model.a": TensorSpec("F32", (5,)), "model.c": TensorSpec("F32", (4,)), "d": TensorSpec("F32", (1,))}
    with pytest.raises(ModelError) as caught:
        require_tensors(expected, specs, Path("m"))
    assert all(words in caught.value.message for words in ("缺少 model.b", "多出 d", "model.a (5,), 应为 (2,)"))


def test_tables_tied_heads_and_left_out_prefixes_are_no_fault() -> None:
    spec = TensorSpec("F32", (2,))
    names = ("a", "lm_head.weight", "layers.0.rotary_emb.inv_freq")
    require_tensors({"model.a": (2,)}, dict.fromkeys(names, spec), Path("m"))


def test_torch_is_what_names_dtypes() -> None:
    from hantune.models.headers import ITEM_BYTES, LONG_NAMES

    assert {name: getattr(torch, long).itemsize for name, long in LONG_NAMES.items()} == ITEM_BYTES
