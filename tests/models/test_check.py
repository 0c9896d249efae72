"""``model check``: figures of a sound folder, and what a careful friend would mention."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from hantune.errors import ModelError
from hantune.models.check import check_model, stored_dtype
from hantune.models.load import load_model
from hantune.models.shards import TensorSpec


@pytest.fixture
def model(tiny_llama_folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny_llama_folder, tmp_path / "model")
    return tmp_path / "model"


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_bytes()) | changes), encoding="utf-8")


@pytest.mark.parametrize("name", ["tiny_llama_folder", "tiny_bloom_folder"])
def test_a_sound_model_has_no_findings(name: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(name)
    found = check_model(folder)
    assert found["findings"] == []
    assert found["parameters"] == load_model(folder, dtype=torch.float32).num_parameters()
    assert (found["dtype"], found["layers"], found["pad"]) == ("float32", 2, "<pad>")
    assert found["vocab_rows"] == found["tokenizer_ids"]


def test_weights_are_compared_without_being_read(model: Path) -> None:
    tensors = load_file(model / "model.safetensors")
    tensors["lm_head.weight"] = torch.ones(3, 64)
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError) as caught:
        check_model(model)
    assert caught.value.code == "model.keys"
    assert "(3, 64)" in caught.value.message


def test_a_borrowed_pad_is_explained(model: Path) -> None:
    edit(model / "tokenizer_config.json", pad_token=None)
    found = check_model(model)
    assert found["pad"] == "<pad>"
    assert "借用" in found["pad_reason"]


@pytest.mark.parametrize(
    ("file", "changes", "word"),
    [
        ("config.json", {"eos_token_id": 7}, "结束符编号"),
        ("tokenizer_config.json", {"eos_token": None}, "没有结束符"),
        ("tokenizer_config.json", {"chat_template": "{% if %}"}, "对话模板"),
    ],
)
def test_oddities_are_mentioned(model: Path, file: str, changes: dict[str, Any], word: str) -> None:
    edit(model / file, **changes)
    assert any(word in finding for finding in check_model(model)["findings"])


def test_mixed_precision_is_mentioned(model: Path) -> None:
    tensors = load_file(model / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"].bfloat16()
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    found = check_model(model)
    assert found["dtype"] == "float32"
    assert any("BF16" in finding for finding in found["findings"])


def test_the_stored_dtype_is_that_of_most_bytes() -> None:
    assert stored_dtype({"a": TensorSpec("BF16", (100,)), "b": TensorSpec("F32", (10,))}) == "bfloat16"
