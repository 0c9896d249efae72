"""Merged = base + adapter, in the same bytes each time, or nothing is left."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from hantune.data.templates import get_template
from hantune.errors import MachineError, ModelError, RunError
from hantune.log import console
from hantune.models import room
from hantune.models.adapter import load_adapter, save_adapter
from hantune.models.load import load_model, load_tokenizer
from hantune.models.locate import locate
from hantune.models.merge import deltas
from hantune.models.merge import merge as merging
from hantune.models.merge.merge import merge
from hantune.models.quantize import Int8, Nf4, Quantization
from hantune.models.shards import INDEX, TensorSpec, write_tensors
from hantune.train.frozen import compute_densely
from tests.models.conftest import move

IDS = torch.tensor([[1, 5, 9, 300, 301, 17]])


def logits_of(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=IDS).logits
    return found


def adapter_with(config: dict[str, Any], base: Path, folder: Path, **move_settings: Any) -> Path:
    """An adapter with any of PEFT's settings."""
    model = load_model(base, dtype=torch.float32)
    tuned = move(get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=4, **config)), **move_settings)
    save_adapter(tuned, folder, base=str(base), tokenizer=load_tokenizer(base), template=get_template("belle"), info={})
    return folder


@pytest.mark.parametrize("family", ["llama", "bloom"])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 2e-2), ("float16", 2e-3)])
def test_merged_is_base_and_adapter(
    family: str,
    dtype: str,
    tolerance: float,
    pair_of: Callable[[str, str], tuple[Path, Path]],
    tmp_path: Path,
) -> None:
    base, adapter = pair_of(family, dtype)
    report = merge(adapter, tmp_path / "out")
    tuned = logits_of(load_adapter(load_model(base, dtype=torch.float32), adapter))
    merged = logits_of(load_model(tmp_path / "out", dtype=torch.float32))
    assert float((tuned - merged).abs().max()) < tolerance * float(tuned.square().mean().sqrt()) * 10
    assert float((tuned - logits_of(load_model(base, dtype=torch.float32))).abs().max()) > 0.01
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {getattr(torch, dtype)}
    assert stored.keys() == load_file(base / "model.safetensors").keys()
    assert report["dtype"] == dtype
    assert report["merged_tensors"] == (14 if family == "llama" else 8)
    assert report["proof"]["holds"]
    assert report["proof"]["equal_tokens"] + report["proof"]["flips"] == report["proof"]["positions"] > 36


def test_the_same_inputs_give_the_same_bytes(shop: Path) -> None:
    for name in ("one", "two"):
        merge(shop / "adapter", shop / name)
    names = sorted(path.name for path in (shop / "one").iterdir())
    assert names == sorted(path.name for path in (shop / "two").iterdir())
    for name in names:
        assert (shop / "one" / name).read_bytes() == (shop / "two" / name).read_bytes(), name


def test_the_merged_folder_has_all_a_model_needs(shop: Path) -> None:
    (shop / "base" / "LICENSE.txt").write_text("be kind", encoding="utf-8")
    (shop / "base" / "generation_config.json").write_text('{"top_p": 0.9}', encoding="utf-8")
    merge(shop / "adapter", shop / "out")
    out = shop / "out"
    assert (out / "LICENSE.txt").read_text(encoding="utf-8") == "be kind"
    assert json.loads((out / "generation_config.json").read_bytes()) == {"top_p": 0.9}
    text = "你好</s><s>\n龘"
    assert load_tokenizer(out).encode(text) == load_tokenizer(shop / "base").encode(text)
    assert (out / "chat_template.jinja").is_file()
    located = locate(out)
    assert (located.adapter, located.template) == (None, locate(shop / "adapter").template)
    record = json.loads((out / "hantune.json").read_bytes())
    assert record["metrics"] == {"loss": 1.5}
    assert len(record["adapter"]["sha256"]) == 64
    assert record["base"]["name"] == "base"
    assert not any(str(shop).encode() in path.read_bytes() for path in out.iterdir())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("factor", [1.02, 0.0, -1.0])
def test_a_wrong_scale_is_found_and_nothing_is_left(
    dtype: str,
    factor: float,
    pair_of: Callable[[str, str], tuple[Path, Path]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, adapter = pair_of("llama", dtype)
    right = deltas.scaling_of
    monkeypatch.setattr(deltas, "scaling_of", lambda *arguments: factor * right(*arguments))
    with pytest.raises(ModelError) as caught:
        merge(adapter, tmp_path / "out")
    assert caught.value.code == "merge.not-equal"
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".tmp-*"))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("is_tied", [True, False])
@pytest.mark.parametrize(
    ("config", "unties"),
    [
        ({"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, True),
        ({"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]}, True),
        ({"target_modules": ["q_proj", "lm_head"]}, True),
        ({"target_modules": ["q_proj", "embed_tokens"]}, True),
        ({"target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [4, 300]}}, False),
    ],
)
def test_embedding_and_head_are_merged_tied_or_not(
    config: dict[str, Any], unties: bool, is_tied: bool, tiny_llama: Any, sp_tokenizer: Any, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    tiny_llama(sp_tokenizer, tie_word_embeddings=is_tied).save_pretrained(base)
    sp_tokenizer.save_pretrained(base)
    adapter = adapter_with(config, base, tmp_path / "adapter")
    merge(adapter, tmp_path / "out")
    tuned = logits_of(load_adapter(load_model(base, dtype=torch.float32), adapter))
    torch.testing.assert_close(
        logits_of(load_model(tmp_path / "out", dtype=torch.float32)), tuned, rtol=1e-4, atol=1e-4
    )
    still = json.loads((tmp_path / "out" / "config.json").read_bytes())["tie_word_embeddings"]
    assert still is (is_tied and not unties)


def test_sharded_bases_without_prefix_are_merged_shard_by_shard(
    base_of: Callable[..., Path],
    make_adapter: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As BLOOM is published: several files, names without ``transformer.``."""
    base = base_of("bloom")
    tensors = {n.removeprefix("transformer."): t for n, t in load_file(base / "model.safetensors").items()}
    (base / "model.safetensors").unlink()
    specs = {name: TensorSpec("F32", tuple(tensor.shape)) for name, tensor in tensors.items()}
    assert len(write_tensors(base, specs, tensors.__getitem__, shard_bytes=100_000)) > 2
    adapter = make_adapter(tmp_path / "adapter", base, template="belle")
    limited = lambda *a, **k: write_tensors(*a, shard_bytes=100_000, **k)  # noqa: E731
    monkeypatch.setattr(merging, "write_tensors", limited)
    assert merge(adapter, tmp_path / "out")["files"] > 2
    assert (tmp_path / "out" / INDEX).is_file()


def test_a_run_is_merged_by_its_name_and_a_model_is_not(shop: Path) -> None:
    (shop / "run").mkdir()
    shutil.copytree(shop / "adapter", shop / "run" / "adapter")
    assert merge(shop / "run", shop / "out", base=str(shop / "base"))["adapter"] == str(shop / "run" / "adapter")
    with pytest.raises(ModelError) as caught:
        merge(shop / "out", shop / "again")
    assert caught.value.code == "merge.no-adapter"
    with pytest.raises(RunError, match=r"run\.exists"):
        merge(shop / "adapter", shop / "out")


def test_what_cannot_be_merged_exactly_is_refused(shop: Path) -> None:
    path = shop / "base" / "config.json"
    path.write_text(
        json.dumps(json.loads(path.read_bytes()) | {"quantization_config": {"load_in_4bit": True}}), encoding="utf-8"
    )
    (shop / "adapter" / "hantune.json").unlink()
    with pytest.raises(ModelError) as caught:
        merge(shop / "adapter", shop / "out", base=str(shop / "base"))
    assert caught.value.code == "merge.unsupported"
    assert not (shop / "out").exists()


def test_a_layer_that_the_base_has_not_is_refused(shop: Path) -> None:
    path = shop / "adapter" / "adapter_model.safetensors"
    save_file({n.replace("layers.1", "layers.9"): t for n, t in load_file(path).items()}, path)
    with pytest.raises(ModelError) as caught:
        merge(shop / "adapter", shop / "out")
    assert caught.value.code == "merge.unsupported"
    assert "layers.9" in caught.value.message


def test_an_adapter_that_rounding_swallows_is_warned_of(base_of: Callable[..., Path], tmp_path: Path) -> None:
    base = base_of("llama", "bfloat16")
    adapter = adapter_with({"target_modules": "all-linear"}, base, tmp_path / "adapter", scale=0.002)
    console.warnings.clear()
    report = merge(adapter, tmp_path / "out")
    assert report["proof"]["lost"] > 0.3
    assert any("舍入" in text for text in console.warnings)


# ---- other kinds of adapters -------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "config",
    [
        {"target_modules": "all-linear", "use_dora": True},
        {"target_modules": "all-linear", "use_rslora": True, "rank_pattern": {"q_proj": 2}},
        {"target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [4, 300], "lm_head": [4, 300]}},
        {"target_modules": ["v_proj"], "modules_to_save": ["norm"]},
    ],
    ids=["dora", "patterns", "rows", "norm"],
)  # fmt: skip
def test_every_kind_is_proven_equal(
    config: dict[str, Any], dtype: str, base_of: Callable[..., Path], tmp_path: Path
) -> None:
    base = base_of("llama", dtype)
    adapter = adapter_with(config, base, tmp_path / "adapter")
    proof = merge(adapter, tmp_path / "out")["proof"]
    assert proof["wrong_weights"] == 0
    tuned = logits_of(load_adapter(load_model(base, dtype=torch.float32), adapter))
    found = logits_of(load_model(tmp_path / "out", dtype=torch.float32))
    loose = 1e-4 if dtype == "float32" else 0.1
    assert float((tuned - found).abs().max()) < loose * float(tuned.square().mean().sqrt())


@pytest.mark.parametrize(("load", "how"), [("4bit", Nf4()), ("8bit", Int8())])
def test_an_adapter_of_a_base_in_few_bits_is_merged_into_what_it_saw(
    base_of: Callable[..., Path], tmp_path: Path, load: str, how: Quantization
) -> None:
    pytest.importorskip("bitsandbytes")
    base = base_of("llama", "bfloat16")
    adapter = adapter_with({"target_modules": ["q_proj", "up_proj"]}, base, tmp_path / "adapter")
    record = json.loads((adapter / "hantune.json").read_bytes())
    for name, quantization in (("few", how.as_dict()), ("plain", None)):
        (adapter / "hantune.json").write_text(json.dumps(record | {"quantization": quantization}), encoding="utf-8")
        report = merge(adapter, tmp_path / name)
        assert report["base_quantization"] == (quantization or {}).get("type")
    tuned = load_model(base, dtype=torch.bfloat16, load=load)
    compute_densely(tuned)
    tuned = load_adapter(tuned, adapter)
    seen = logits_of(tuned).float()
    gap = {
        name: float(
            (logits_of(load_model(tmp_path / name, dtype=torch.bfloat16)).float() - seen).square().mean().sqrt()
        )
        for name in ("few", "plain")
    }
    assert gap["few"] < (0.2 if load == "4bit" else 0.9) * gap["plain"]


# ---- what went wrong is found ------------------------------------------------------------------------------------


def spoil_scale(tensors: dict[str, torch.Tensor], name: str) -> None:
    tensors[name] = (tensors[name].float() * 1.01).to(tensors[name].dtype)


def spoil_other(tensors: dict[str, torch.Tensor], name: str) -> None:
    generator = torch.Generator().manual_seed(9)
    for each in [n for n in tensors if n.startswith(name.split(".self_attn")[0].split(".mlp")[0])]:
        kind, shape = tensors[each].dtype, tensors[each].shape
        tensors[each] = torch.empty(shape).normal_(0, 0.02, generator=generator).to(kind)


def spoil_swap(tensors: dict[str, torch.Tensor], name: str) -> None:
    other = name.replace("layers.0", "layers.1")
    if other != name:
        tensors[name], tensors[other] = tensors[other], tensors[name]
    else:
        tensors[name] = tensors[name].flip(0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("spoil", "name"),
    [
        (spoil_scale, "model.layers.0.self_attn.q_proj.weight"),
        (spoil_scale, "lm_head.weight"),
        (spoil_other, "model.layers.0.mlp.down_proj.weight"),
        (spoil_swap, "model.layers.0.self_attn.v_proj.weight"),
        (spoil_swap, "model.embed_tokens.weight"),
    ],
)
def test_a_spoilt_file_is_found_every_time(
    name: str,
    spoil: Callable[[dict[str, torch.Tensor], str], None],
    dtype: str,
    pair_of: Callable[[str, str], tuple[Path, Path]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, adapter = pair_of("llama", dtype)
    write = merging.write_tensors

    def write_wrong(folder: Path, *arguments: Any, **settings: Any) -> list[Path]:
        files = write(folder, *arguments, **settings)
        tensors = load_file(files[0])
        spoil(tensors, name)
        save_file(tensors, files[0])
        return files

    monkeypatch.setattr(merging, "write_tensors", write_wrong)
    with pytest.raises(ModelError) as caught:
        merge(adapter, tmp_path / "out")
    assert caught.value.code == "merge.not-equal"
    assert not (tmp_path / "out").exists()


def test_a_transposed_product_is_found(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = deltas._low_rank

    def turned(parts: Any, scaling: float, is_turned: bool, file: Any) -> Any:
        change = right(parts, scaling, is_turned, file)
        square = file.get_tensor(parts.a).shape[1] == file.get_tensor(parts.b).shape[0]
        delta = scaling * file.get_tensor(parts.a).T @ file.get_tensor(parts.b).T
        return (lambda: lambda rows, start: rows + delta[start : start + len(rows)]) if square else change

    monkeypatch.setattr(deltas, "_low_rank", turned)
    with pytest.raises(ModelError) as caught:
        merge(shop / "adapter", shop / "out")
    assert caught.value.code == "merge.not-equal"


@pytest.mark.parametrize("where", ["base", "adapter"])
def test_a_nan_is_named_before_anything_is_kept(where: str, shop: Path) -> None:
    name = "model.safetensors" if where == "base" else "adapter_model.safetensors"
    path = shop / where / name
    tensors = load_file(path)
    key = next(n for n in tensors if "q_proj" in n and "lora_A" not in n)
    tensors[key][0, 0] = float("nan")
    save_file(tensors, path, metadata={"format": "pt"})
    if where == "base":
        (shop / "adapter" / "hantune.json").unlink()
    with pytest.raises(ModelError) as caught:
        merge(shop / "adapter", shop / "out", base=str(shop / "base"))
    assert caught.value.code == "merge.not-finite"
    assert "q_proj" in caught.value.message
    assert str(shop / where) in str(caught.value.place)
    assert not (shop / "out").exists()


def test_too_small_a_disk_is_said_before_the_first_byte(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "SPARE_BYTES", 1 << 60)
    monkeypatch.setattr(merging, "write_tensors", None)
    with pytest.raises(MachineError) as caught:
        merge(shop / "adapter", shop / "out")
    assert caught.value.code == "machine.no-room"


def test_the_bytes_do_not_depend_on_threads(shop: Path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        merge(shop / "adapter", shop / "out")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    merge(shop / "adapter", shop / "again")
    assert (shop / "out/model.safetensors").read_bytes() == (shop / "again/model.safetensors").read_bytes()
