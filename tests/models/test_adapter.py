"""Adapters: the start that is seeded, the folder that names nobody, the broken ones that are refused."""

from __future__ import annotations

import copy
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
from hantune.models.adapter import (
    NEW_ROWS,
    _linear_in_dtype_of_input,
    attach_lora,
    chosen_layers,
    linear_names,
    load_adapter,
    new_rows,
    require_adapter,
    save_adapter,
)
from hantune.models.call import bare_model, checkpoint_activations
from hantune.models.load import load_model, load_tokenizer
from hantune.models.merge.merge import merge
from tests.models.conftest import move

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


# ---- options --------------------------------------------------------------------------------------------------------

OPTIONS: dict[str, dict[str, Any]] = {
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "dora-rslora": {"use_dora": True, "use_rslora": True, "rank": 4},
    "last": {"layers_to_transform": "last 1"},
    "dora-first": {"layers_to_transform": (0,), "use_dora": True},
    "embeddings": {"embeddings": "all"},
    "embeddings-last": {"embeddings": "all", "layers_to_transform": "last 1", "use_dora": True},
}


CASES = [
    *(("llama", option) for option in OPTIONS),
    *(("llama-tied", option) for option in ("dora", "embeddings", "embeddings-last")),
    *(("bloom", option) for option in ("dora", "last", "embeddings", "embeddings-last")),
]
"""BLOOM is tied, too, but under names that PEFT itself does not tie."""


@pytest.fixture
def base(request: pytest.FixtureRequest, tiny_llama: Any, sp_tokenizer: Any, tmp_path: Path) -> Path:
    """A model folder of a family."""
    if request.param != "llama-tied":
        return Path(request.getfixturevalue(f"tiny_{request.param}_folder"))
    tiny_llama(sp_tokenizer, tie_word_embeddings=True).save_pretrained(tmp_path / "base")
    sp_tokenizer.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
@pytest.mark.parametrize(("base", "option"), CASES, indirect=["base"])
def test_each_option_is_saved_loads_in_plain_peft_and_merges(option: str, base: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = move(attach_lora(load_model(base, dtype=torch.float32), AdapterSection(**OPTIONS[option]), seed=1))
    ids = torch.tensor([[1, 5, 9, 300]])
    with torch.no_grad():
        wanted = model.eval()(input_ids=ids).logits
    save_adapter(
        model, tmp_path / "adapter", base=str(base), tokenizer=load_tokenizer(base), template=get_template("belle"),
        info={},
    )  # fmt: skip
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter")
    assert merge(tmp_path / "adapter", tmp_path / "merged", base=str(base))["proof"]["holds"]
    merged = load_model(tmp_path / "merged", dtype=torch.float32)
    with torch.no_grad():
        assert torch.equal(plain.eval()(input_ids=ids).logits, wanted)
        torch.testing.assert_close(merged(input_ids=ids).logits, wanted, rtol=1e-4, atol=1e-4)
    kept = json.loads((base / "config.json").read_bytes()).get("tie_word_embeddings", True)
    assert merged.config.tie_word_embeddings is kept


def test_dora_is_pefts_with_magnitudes_in_float32(tiny_llama: Any, sp_tokenizer: Any) -> None:
    model = attach_lora(tiny_llama(sp_tokenizer).bfloat16(), AdapterSection(use_dora=True), seed=0)
    magnitudes = [p for name, p in factors(model).items() if "magnitude" in name]
    assert len(magnitudes) == 2 * 7
    assert {tensor.dtype for tensor in magnitudes} == {torch.float32}
    assert model(input_ids=torch.tensor([[1, 5]])).logits.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("asked", "numbers"),
    [(None, None), ("last 1", [3]), ("last 4", [0, 1, 2, 3]), ((2, 0, 2), [0, 2]), ((3,), [3])],
)
def test_layers_are_numbered_from_zero(asked: Any, numbers: list[int] | None) -> None:
    assert chosen_layers(asked, 4) == numbers


@pytest.mark.parametrize("asked", ["last 3", (0, 2)])
def test_more_layers_than_there_are_is_an_error(asked: Any, tiny_llama: Any, sp_tokenizer: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        attach_lora(tiny_llama(sp_tokenizer), AdapterSection(layers_to_transform=asked), seed=0)
    assert (caught.value.code, caught.value.place) == ("adapter.no-such-layer", "adapter.layers_to_transform")
    assert "只有 2 层" in caught.value.message


@pytest.mark.parametrize("family", ["llama", "bloom"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_backward_stops_at_the_first_layer_with_an_adapter(
    family: str, checkpointing: bool, request: pytest.FixtureRequest, sp_tokenizer: Any
) -> None:
    changes = {"num_hidden_layers": 4} if family == "llama" else {"n_layer": 4}
    model = request.getfixturevalue(f"tiny_{family}")(sp_tokenizer, **changes)
    wrapped = attach_lora(model, AdapterSection(layers_to_transform="last 2"), seed=0).train()
    bare = bare_model(wrapped)
    if checkpointing:
        checkpoint_activations(bare)
    layers = bare.model.layers if family == "llama" else bare.transformer.h
    wants_grad: dict[int, bool] = {}
    for number, layer in enumerate(layers):
        layer.register_forward_hook(
            lambda module, inputs, output, number=number: wants_grad.__setitem__(
                number, (output if isinstance(output, torch.Tensor) else output[0]).requires_grad
            )
        )
    ids = torch.tensor([[1, 5, 9, 300]])
    loss = wrapped(input_ids=ids, labels=ids).loss
    assert wants_grad == {0: False, 1: False, 2: True, 3: True}
    loss.backward()
    numbers = {int(name.split(".lora_")[0].split(".")[4]) for name in factors(wrapped)}
    assert numbers == {2, 3}
    assert all(p.grad is not None for p in wrapped.parameters() if p.requires_grad)


@pytest.mark.parametrize("family", ["llama", "bloom"])
def test_whole_embeddings_compute_in_the_bases_dtype_and_are_learned_in_float32(
    family: str, request: pytest.FixtureRequest, sp_tokenizer: Any
) -> None:
    model = request.getfixturevalue(f"tiny_{family}")(sp_tokenizer).bfloat16()
    ids = torch.tensor([[1, 5, 9, 300]])
    with torch.no_grad():
        before = model(input_ids=ids).logits
    wrapped = attach_lora(model, AdapterSection(embeddings="all"), seed=0)
    output = wrapped(input_ids=ids, labels=ids)
    assert torch.equal(output.logits, before)
    output.loss.backward()
    whole = {name: p for name, p in wrapped.named_parameters() if p.requires_grad and "lora_" not in name}
    assert len(whole) == (1 if model.config.tie_word_embeddings else 2)
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in whole.values())


@pytest.mark.parametrize("bias", [True, False])
def test_a_head_in_float32_computes_in_the_type_of_what_it_reads(bias: bool) -> None:
    head, x = torch.nn.Linear(4, 3, bias=bias), torch.randn(2, 4).bfloat16()
    assert torch.equal(_linear_in_dtype_of_input(head, x), copy.deepcopy(head).bfloat16()(x))


@pytest.mark.parametrize("is_tied", [False, True])
def test_new_rows_are_all_from_the_first_up_to_the_end(tiny_llama: Any, sp_tokenizer: Any, is_tied: bool) -> None:
    model = tiny_llama(sp_tokenizer, tie_word_embeddings=is_tied)
    setattr(model.config, NEW_ROWS, [5, 8])
    assert new_rows(model) == dict.fromkeys(["embed_tokens"] if is_tied else ["embed_tokens", "lm_head"], [5, 6, 7])


def test_embeddings_without_new_rows_and_frozen_ones_are_not_trained(tiny_llama: Any, sp_tokenizer: Any) -> None:
    for choice in ("new-rows", "frozen"):
        wrapped = attach_lora(tiny_llama(sp_tokenizer), AdapterSection(embeddings=choice), seed=0)
        assert all("lora_" in name for name in factors(wrapped))


def test_whole_embeddings_alone_do_not_pass_for_training(tiny_llama_folder: Path, tmp_path: Path) -> None:
    model = attach_lora(load_model(tiny_llama_folder, dtype=torch.float32), AdapterSection(embeddings="all"), seed=0)
    with pytest.raises(TrainError) as caught:
        save_adapter(
            model, tmp_path / "new", base=str(tiny_llama_folder), tokenizer=load_tokenizer(tiny_llama_folder),
            template=get_template("plain"), info={},
        )  # fmt: skip
    assert caught.value.code == "adapter.not-saved"


# ---- files ----------------------------------------------------------------------------------------------------------


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
    loaded = load_adapter(load_model(shop / "base", dtype=torch.float32).train(), shop / "new")
    assert torch.equal(loaded(input_ids=ids).logits, wanted)
    assert not any(module.training for module in loaded.modules())


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


@pytest.mark.parametrize("targets", ["all-linear", ("embed_tokens",)])
def test_an_adapter_that_never_moved_is_not_called_saved(shop: Path, targets: Any) -> None:
    base, tokenizer = shop / "base", load_tokenizer(shop / "base")
    model = attach_lora(load_model(base, dtype=torch.float32), AdapterSection(targets=targets), seed=1)
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
