"""What of a repository is fetched, and which names are refused."""

from __future__ import annotations

import pytest

from hantune.errors import RefusedError
from hantune.models.fetch.needed import SOURCE, choose, require_safe

BESIDE = ["config.json", "tokenizer.json", "tokenizer_config.json", "README.md", "LICENSE.txt"]
REST = [
    ".gitattributes", "modeling_x.py", "model.onnx", "tf_model.h5", "flax_model.msgpack", "q4.gguf", "a.png",
    "original/params.json", "original/consolidated.00.pth", "onnx/model.onnx", "checkpoint-5/config.json", SOURCE,
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "weights", "unwanted"),
    [
        ("safetensors", ["model.safetensors"], ["pytorch_model.bin", "consolidated.00.pth"]),
        (
            "safetensors",
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"],
            ["pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json", "consolidated.safetensors"],
        ),
        ("safetensors", ["model.safetensors"], ["model.fp16.safetensors", "adapter_model.safetensors"]),
        ("adapter", ["adapter_model.safetensors", "adapter_config.json"], ["adapter_model.bin"]),
        ("safetensors", ["weights.safetensors"], ["consolidated.safetensors"]),
        ("bin", ["pytorch_model-00001-of-00001.bin", "pytorch_model.bin.index.json"], ["consolidated.00.pth"]),
        ("meta", ["consolidated.00.pth", "consolidated.01.pth", "params.json", "checklist.chk", "tokenizer.model"], []),
    ],
)
def test_one_form_of_the_weights_and_what_stands_beside(kind: str, weights: list[str], unwanted: list[str]) -> None:
    chosen = choose([*REST, *unwanted, *weights, *BESIDE], place="own/x")
    assert chosen == (kind, tuple(sorted([*weights, *BESIDE])))


@pytest.mark.parametrize(
    "names", [[], BESIDE, [*BESIDE, "q4.gguf"], ["data/train.parquet"], ["original/model.safetensors"]]
)
def test_nothing_usable_is_said_before_anything_is_fetched(names: list[str]) -> None:
    with pytest.raises(RefusedError) as caught:
        choose(names, place="own/x")
    assert (caught.value.code, caught.value.exit_code) == ("hub.no-model", 3)


@pytest.mark.parametrize(
    "name",
    [
        "../a.json", "a/../../b.json", "/etc/passwd", "..", "", "a\\..\\b.json", "\\\\host\\a", "C:/a.json", "c:a.json",
        "a\n.json", "a\0.json",
    ],
)  # fmt: skip
def test_names_that_leave_the_folder_are_refused_all(name: str) -> None:
    with pytest.raises(RefusedError) as caught:
        choose(["model.safetensors", "config.json", name], place="own/x")
    assert caught.value.code == "hub.unsafe-name"


def test_odd_names_that_stay_inside_are_fine() -> None:
    require_safe(["a..b.json", "sub/模型 1.json", ".gitattributes", "a.b/c"], place="own/x")
