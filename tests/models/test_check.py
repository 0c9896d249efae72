"""``model check``: figures of a sound folder, and what a careful friend would mention."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from hantune.errors import ModelError
from hantune.log import console
from hantune.models.check import check_model, stored_dtype
from hantune.models.headers import INDEX, TensorSpec
from hantune.models.load import load_model
from hantune.models.shapes import expected_shapes

ROOT = Path(__file__).resolve().parents[2]


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


def weights(model: Path, **changes: Any) -> None:
    path = model / "model.safetensors"
    save_file(load_file(path) | changes, path, metadata={"format": "pt"})


def index(model: Path, file: str, **more: str) -> None:
    names = dict.fromkeys(load_file(model / "model.safetensors"), file)
    (model / INDEX).write_text(json.dumps({"weight_map": names | more}), encoding="utf-8")


def _nan(model: Path) -> None:
    weights(model, **{"model.norm.weight": torch.full((64,), torch.nan)})


def _absent_tensor(model: Path) -> None:
    index(model, "model.safetensors", **{"model.layers.9.w": "model.safetensors"})


def _traversal(model: Path) -> None:
    (model.parent / "outside.safetensors").write_bytes((model / "model.safetensors").read_bytes())
    index(model, "../outside.safetensors")


def _huge_header(model: Path) -> None:
    (model / "model.safetensors").write_bytes((2**60).to_bytes(8, "little") + b"{}")


def _no_layers(model: Path) -> None:
    edit(model / "config.json", num_hidden_layers="2")


def _late_pad(model: Path) -> None:
    edit(model / "tokenizer_config.json", pad_token="<PAD>")


def _tokenizer_pointer(model: Path) -> None:
    (model / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1\n", encoding="utf-8")


@pytest.mark.parametrize(
    ("code", "spoil", "word"),
    [
        ("model.not-finite", _nan, "model.norm.weight"),
        ("model.bad-index", _absent_tensor, "model.layers.9.w"),
        ("model.bad-index", _traversal, "外面"),
        ("model.torn-file", _huge_header, "1,152,921,504,606,846,976"),
        ("model.bad-config", _no_layers, "num_hidden_layers"),
        ("model.vocab-too-small", _late_pad, "分词器有"),
        ("model.lfs-pointer", _tokenizer_pointer, "tokenizer.json"),
        ("model.bad-tokenizer", lambda m: (m / "tokenizer.json").write_text("{", encoding="utf-8"), "分词器"),
        ("model.no-tokenizer", lambda m: (m / "tokenizer.json").unlink(), "分词器"),
    ],
)
def test_what_makes_a_folder_unusable_has_its_code(
    model: Path, code: str, spoil: Callable[[Path], object], word: str
) -> None:
    spoil(model)
    with pytest.raises(ModelError) as caught:
        check_model(model)
    assert caught.value.code == code
    assert word in caught.value.message
    assert caught.value.hint


def test_all_problems_come_at_once(model: Path) -> None:
    _huge_header(model)
    (model / "tokenizer.json").unlink()
    console.warnings.clear()
    with pytest.raises(ModelError, match="torn-file"):
        check_model(model)
    assert [line for line in console.warnings if "model.no-tokenizer" in line]
    console.warnings.clear()


def test_a_hidden_nan_takes_the_deep_check(model: Path) -> None:
    row = load_file(model / "model.safetensors")["lm_head.weight"].clone()
    row.view(-1)[1500] = torch.inf
    weights(model, **{"lm_head.weight": row})
    check_model(model)
    with pytest.raises(ModelError, match="not-finite"):
        check_model(model, deep=True)


def _zeros(model: Path) -> None:
    weights(model, **{"lm_head.weight": torch.zeros_like(load_file(model / "model.safetensors")["lm_head.weight"])})


def _pickle_beside(model: Path) -> None:
    (model / "pytorch_model.bin").write_bytes(b"PK")


def _linked(model: Path) -> None:
    (model / "model.safetensors").rename(model.parent / "elsewhere")
    (model / "model.safetensors").symlink_to(model.parent / "elsewhere")


@pytest.mark.parametrize(("spoil", "word", "fix"), [
    (_zeros, "全是 0", "重新下载"), (_pickle_beside, "pickle", "rm "), (_linked, "链接", "cp --remove-destination"),
    (lambda m: edit(m / "config.json", auto_map={"AutoModel": "x.Y"}), "auto_map", "不用做什么"),
])  # fmt: skip
def test_each_finding_says_what_mends_it(model: Path, spoil: Callable[[Path], None], word: str, fix: str) -> None:
    spoil(model)
    (finding,) = check_model(model)["findings"]
    assert word in finding
    assert fix in finding.partition("办法: ")[2]


@pytest.mark.e2e
def test_13_gb_are_checked_in_less_than_two_seconds(model: Path) -> None:
    """Of the processor's time, the start of Python included. The weights are holes in a file: nobody reads them."""
    shape = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
             "num_key_value_heads": 32, "head_dim": 128, "vocab_size": 32000, "dtype": "bfloat16"}  # fmt: skip
    edit(model / "config.json", **shape)
    specs = {
        name: TensorSpec("BF16", size)
        for name, size in (expected_shapes(json.loads((model / "config.json").read_bytes()), model) or {}).items()
    }
    header, end = {}, 0
    for name, spec in specs.items():
        header[name] = {"dtype": spec.dtype, "shape": spec.shape, "data_offsets": [end, end + spec.num_bytes]}
        end += spec.num_bytes
    text = json.dumps(header).encode()
    with (model / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "hantune", "model", "check", str(model), "--json"],
        cwd=ROOT, env=os.environ, capture_output=True, encoding="utf-8", check=True,
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2
    assert json.loads(done.stdout)["result"]["bytes"] > 13e9


def test_the_check_needs_neither_torch_nor_transformers(model: Path) -> None:
    code = (
        "import sys; from hantune.models.check import check_model; check_model(sys.argv[1]); "
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(model)], cwd=ROOT, check=True)
