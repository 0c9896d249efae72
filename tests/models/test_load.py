"""Loading is strict: every parameter comes from the file, or the model is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from hantune.errors import ModelError
from hantune.models.load import chat_template, load_model, load_tokenizer, model_type, numbered


@pytest.fixture
def model(tiny_llama_folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny_llama_folder, tmp_path / "model")
    return tmp_path / "model"


def rewrite(folder: Path, change: Any) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("name", ["tiny_llama_folder", "tiny_bloom_folder"])
def test_a_sound_model_loads_in_the_asked_dtype(name: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(name)
    model = load_model(folder, dtype=torch.bfloat16)
    stored = load_file(folder / "model.safetensors")
    assert not model.training
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert all(torch.equal(p, stored[n].bfloat16()) for n, p in model.named_parameters())
    assert model_type(folder) == model.config.model_type
    assert model.config._attn_implementation == ("sdpa" if "llama" in name else "eager")


def test_names_without_the_prefix_of_the_body_load(tiny_bloom_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_bloom_folder, tmp_path / "m")
    whole = load_model(tmp_path / "m", dtype=torch.float32).state_dict()
    tensors = load_file(tmp_path / "m" / "model.safetensors")
    save_file({n.removeprefix("transformer."): t for n, t in tensors.items()}, tmp_path / "m" / "model.safetensors",
              metadata={"format": "pt"})  # fmt: skip
    again = load_model(tmp_path / "m", dtype=torch.float32).state_dict()
    assert all(torch.equal(whole[name], again[name]) for name in whole)


@pytest.mark.parametrize(
    ("word", "change"),
    [
        ("缺少 model.norm.weight", lambda tensors: tensors.pop("model.norm.weight")),
        ("多出 model.extra.weight", lambda tensors: tensors.update({"model.extra.weight": torch.ones(3)})),
        ("形状不符 lm_head.weight", lambda tensors: tensors.update({"lm_head.weight": torch.ones(7, 64)})),
    ],
)
def test_weights_that_do_not_fit_the_config_are_refused(model: Path, word: str, change: Any) -> None:
    rewrite(model, change)
    with pytest.raises(ModelError) as caught:
        load_model(model, dtype=torch.float32)
    assert caught.value.code == "model.keys"
    assert word in caught.value.message


def test_rotary_buffers_of_old_checkpoints_are_no_leftovers(model: Path) -> None:
    rewrite(model, lambda tensors: tensors.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}))
    load_model(model, dtype=torch.float32)


def test_a_tokenizer_with_more_ids_than_rows_is_refused(model: Path) -> None:
    path = model / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"pad_token": "<PAD>"}), encoding="utf-8")
    with pytest.raises(ModelError) as caught:
        load_model(model, dtype=torch.float32)
    assert caught.value.code == "model.vocab-too-small"


@pytest.mark.parametrize("kind", ["no-such-family", "clip"])
def test_a_family_that_is_none_of_ours(model: Path, kind: str) -> None:
    path = model / "config.json"
    path.write_text(json.dumps({"model_type": kind, "auto_map": {"AutoModelForCausalLM": "m.M"}}), encoding="utf-8")
    with pytest.raises(ModelError) as caught:
        load_model(model, dtype=torch.float32)
    assert caught.value.code == "model.unknown-type"
    assert kind in caught.value.message


def test_loading_says_nothing_of_its_own(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load_model(model, dtype=torch.float32)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_the_chat_template_of_a_tokenizer(model: Path) -> None:
    assert chat_template(load_tokenizer(model)) is None
    (model / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
    assert chat_template(load_tokenizer(model)) == "{{ messages }}"


def test_a_card_gets_a_number() -> None:
    """accelerate refuses to train a quantised model that was put on ``cuda`` and not on ``cuda:0``."""
    assert [numbered(device) for device in ("cpu", "cuda", "cuda:1")] == ["cpu", "cuda:0", "cuda:1"]
