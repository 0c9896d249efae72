"""Adapters: the start that is seeded, the folder that names nobody, the broken ones that are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from hantune.config.schema import AdapterSection
from hantune.data.templates import get_template
from hantune.errors import ConfigError, ModelError, TrainError
from hantune.models.adapter import attach_lora, linear_names, load_adapter, require_adapter, save_adapter
from hantune.models.load import load_model, load_tokenizer

LLAMA_LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def factors(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def test_the_start_depends_on_the_seed_alone(tiny_llama: Any, sp_tokenizer: Any) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = factors(attach_lora(tiny_llama(sp_tokenizer), AdapterSection(), seed=3))
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    two = factors(attach_lora(tiny_llama(sp_tokenizer), AdapterSection(), seed=3))
    other = factors(attach_lora(tiny_llama(sp_tokenizer), AdapterSection(), seed=4))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)
    assert all(bool(t.any()) == ("lora_A" in name) for name, t in one.items())


@pytest.mark.parametrize(("family", "layers"), [("llama", 7), ("bloom", 4)])
def test_all_linear_is_all_but_the_head_in_float32(
    family: str, layers: int, request: pytest.FixtureRequest, sp_tokenizer: Any
) -> None:
    model = request.getfixturevalue(f"tiny_{family}")(sp_tokenizer).bfloat16()
    assert len(linear_names(model)) == layers
    wrapped = attach_lora(model, AdapterSection(), seed=0)
    trainable = factors(wrapped)
    assert len(trainable) == 2 * 2 * layers
    assert {tensor.dtype for tensor in trainable.values()} == {torch.float32}
    assert not any("lm_head" in name or "embed" in name for name in trainable)


def test_an_unknown_layer_is_answered_with_the_known_ones(tiny_llama: Any, sp_tokenizer: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        attach_lora(tiny_llama(sp_tokenizer), AdapterSection(targets=("q_proj", "query_key_value")), seed=0)
    assert caught.value.code == "adapter.no-such-layer"
    assert caught.value.place == "adapter.targets"
    assert "query_key_value" in caught.value.message
    assert all(name in caught.value.message for name in LLAMA_LAYERS)


def test_a_saved_adapter_gives_the_same_logits(shop: Path, make_adapter: Callable[..., Path]) -> None:
    model = attach_lora(load_model(shop / "base", dtype=torch.float32), AdapterSection(use_rslora=True), seed=1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(0, 0.1)
    ids = torch.tensor([[1, 5, 9, 300]])
    wanted = model.eval()(input_ids=ids).logits
    tokenizer = load_tokenizer(shop / "base")
    save_adapter(
        model, shop / "new", base=str(shop / "base"), tokenizer=tokenizer, template=get_template("chatml"), info={}
    )
    loaded = load_adapter(load_model(shop / "base", dtype=torch.float32), shop / "new")
    assert torch.equal(loaded(input_ids=ids).logits, wanted)


def test_the_folder_names_no_path_and_no_person(shop: Path) -> None:
    folder = shop / "adapter"
    names = {path.name for path in folder.iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "hantune.json", "chat_template.jinja"} <= names
    assert "README.md" not in names
    for path in folder.iterdir():
        text = path.read_bytes()
        assert str(shop.parent).encode() not in text
        assert str(Path.home()).encode() + b"/" not in text
    config = json.loads((folder / "adapter_config.json").read_bytes())
    assert config["base_model_name_or_path"] == "base"
    assert config["target_modules"] == sorted(config["target_modules"])
    record = json.loads((folder / "hantune.json").read_bytes())
    assert record["format"] == 1
    assert record["template"]["name"] == "llama2"
    assert record["base"]["hint"] == "../base"
    assert len(record["base"]["fingerprint"]) == 64
    assert record["metrics"] == {"loss": 1.5}


def test_the_same_adapter_has_the_same_bytes(workshop: Path, make_adapter: Callable[..., Path], shop: Path) -> None:
    again = make_adapter(shop / "again", shop / "base")
    for path in (workshop / "adapter").iterdir():
        assert path.read_bytes() == (again / path.name).read_bytes(), path.name


def test_an_adapter_that_never_moved_is_not_called_saved(shop: Path) -> None:
    base, tokenizer = shop / "base", load_tokenizer(shop / "base")
    model = attach_lora(load_model(base, dtype=torch.float32), AdapterSection(), seed=1)
    common: dict[str, Any] = {"base": str(base), "tokenizer": tokenizer, "template": get_template("plain")}
    with pytest.raises(TrainError) as caught:
        save_adapter(model, shop / "new", **common, info={})
    assert caught.value.code == "adapter.not-saved"
    assert not (shop / "new").exists()
    save_adapter(model, shop / "new", **common, info={"untrained": True})
    with pytest.raises(ModelError) as refused:
        load_adapter(load_model(base, dtype=torch.float32), shop / "new")
    assert refused.value.code == "adapter.untrained"
    load_adapter(load_model(base, dtype=torch.float32), shop / "new", untrained=True)


def _no_config(folder: Path) -> None:
    (folder / "adapter_config.json").unlink()


def _broken_config(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{", encoding="utf-8")


def _cut(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


def _tiny(folder: Path) -> None:
    save_file({}, folder / "adapter_model.safetensors")


def _gone(folder: Path) -> None:
    (folder / "adapter_model.safetensors").unlink()


def _pickle(folder: Path) -> None:
    _gone(folder)
    (folder / "adapter_model.bin").write_bytes(b"PK")


def _zero(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    save_file({n: t * 0 if "lora_B" in n else t for n, t in load_file(path).items()}, path)


@pytest.mark.parametrize(
    ("code", "spoil"),
    [
        ("adapter.not-adapter", _no_config),
        ("adapter.torn", _broken_config),
        ("adapter.torn", _cut),
        ("adapter.torn", _tiny),
        ("adapter.torn", _gone),
        ("adapter.pickle", _pickle),
        ("adapter.untrained", _zero),
    ],
)
def test_a_broken_adapter_is_told_by_its_code(shop: Path, code: str, spoil: Callable[[Path], None]) -> None:
    spoil(shop / "adapter")
    with pytest.raises(ModelError) as caught:
        require_adapter(shop / "adapter")
    assert caught.value.code == code


def test_an_adapter_of_another_shape_does_not_fit(shop: Path, tiny_llama: Any, sp_tokenizer: Any) -> None:
    other = tiny_llama(sp_tokenizer, hidden_size=32)
    with pytest.raises(ModelError) as caught:
        load_adapter(other, shop / "adapter")
    assert caught.value.code == "adapter.keys"


def test_an_adapter_with_a_tensor_missing_does_not_fit(shop: Path) -> None:
    path = shop / "adapter" / "adapter_model.safetensors"
    tensors = load_file(path)
    tensors.pop(sorted(tensors)[0])
    save_file(tensors, path)
    with pytest.raises(ModelError) as caught:
        load_adapter(load_model(shop / "base", dtype=torch.float32), shop / "adapter")
    assert caught.value.code == "adapter.keys"
