"""The fingerprint sees what makes another model, and nothing else."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from hantune.models.fingerprint import EDGE_BYTES, NUM_SAMPLES, fingerprint


@pytest.fixture
def model(tiny_llama_folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny_llama_folder, tmp_path / "model")
    return tmp_path / "model"


def test_the_place_and_name_of_the_folder_do_not_matter(model: Path, tmp_path: Path) -> None:
    before = fingerprint(model)
    assert len(before) == 64
    (tmp_path / "汉 字").mkdir()
    model.rename(tmp_path / "汉 字" / "moved")
    assert fingerprint(tmp_path / "汉 字" / "moved") == before


def test_what_every_save_changes_does_not_matter(model: Path) -> None:
    before = fingerprint(model)
    config = json.loads((model / "config.json").read_bytes())
    config |= {"_name_or_path": "elsewhere", "transformers_version": "0"}
    (model / "config.json").write_text(json.dumps(dict(reversed(config.items()))), encoding="utf-8")
    (model / "README.md").write_text("x", encoding="utf-8")
    assert fingerprint(model) == before


def test_a_setting_matters(model: Path) -> None:
    before = fingerprint(model)
    config = json.loads((model / "config.json").read_bytes())
    (model / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-5}), encoding="utf-8")
    assert fingerprint(model) != before


@pytest.mark.parametrize("sample", [0, 1, NUM_SAMPLES // 2, NUM_SAMPLES - 1])
def test_each_sampled_byte_matters(model: Path, sample: int) -> None:
    before = fingerprint(model)
    path = model / "model.safetensors"
    data = bytearray(path.read_bytes())
    header = 8 + int.from_bytes(data[:8], "little")
    offset = max(header, len(data) * sample // NUM_SAMPLES)
    data[offset] ^= 1
    path.write_bytes(data)
    assert fingerprint(model) != before
    data[offset] ^= 1
    data[-1] ^= 128
    path.write_bytes(data)
    assert fingerprint(model) != before


def test_a_name_and_a_shape_matter(model: Path) -> None:
    before = fingerprint(model)
    path = model / "model.safetensors"
    tensors = load_file(path)
    name = next(iter(tensors))
    save_file({("x" + n if n == name else n): t for n, t in tensors.items()}, path)
    renamed = fingerprint(model)
    save_file({n: (t.reshape(-1) if n == name else t) for n, t in tensors.items()}, path)
    assert len({before, renamed, fingerprint(model)}) == 3


def test_a_large_model_is_read_in_samples(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    size = 13 * 10**9
    header = json.dumps({"a": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + size)  # sparse: takes no room
    start = time.monotonic()
    fingerprint(tmp_path)
    assert time.monotonic() - start < 1.0
    assert size > EDGE_BYTES
