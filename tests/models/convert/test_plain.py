"""The tokenizer as its files describe it: the same as the one transformers loads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from hantune.models.convert.plain import read_plain
from hantune.models.tokenizer import choose_pad, num_ids
from tests.conftest import SENTENCES


def folders(request: pytest.FixtureRequest) -> list[Path]:
    return [request.getfixturevalue(name) for name in ("sp_tokenizer_folder", "byte_tokenizer_folder")]


def require_same(folder: Path) -> None:
    plain, full = read_plain(folder), AutoTokenizer.from_pretrained(folder)
    assert plain is not None
    assert num_ids(plain) == num_ids(full)
    assert choose_pad(plain) == choose_pad(full)
    for name in ("bos_token", "eos_token", "unk_token", "pad_token", "eos_token_id", "pad_token_id"):
        assert getattr(plain, name) == getattr(full, name), name
    for text in SENTENCES:
        ids = plain.encode(text, add_special_tokens=False)
        assert ids == full.encode(text, add_special_tokens=False)
        assert plain.decode(ids) == full.decode(ids)


@pytest.mark.parametrize(
    "changes",
    [
        {}, {"pad_token": None}, {"eos_token": None}, {"pad_token": "<late>"}, {"extra_special_tokens": ["<x>", "<y>"]},
        {"pad_token": {"content": "<obj>", "lstrip": False, "__type": "AddedToken"}},
    ],
)  # fmt: skip
def test_it_is_what_transformers_loads(changes: dict[str, Any], request: pytest.FixtureRequest, tmp_path: Path) -> None:
    for number, source in enumerate(folders(request)):
        folder = tmp_path / str(number)
        shutil.copytree(source, folder)
        path = folder / "tokenizer_config.json"
        path.write_text(json.dumps(json.loads(path.read_bytes()) | changes), encoding="utf-8")
        require_same(folder)


def test_it_is_what_transformers_loads_of_llama_2(shared_data: Path) -> None:
    require_same(shared_data / "tokenizers" / "llama2")


def test_what_takes_transformers_is_left_to_it(sp_tokenizer_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(sp_tokenizer_folder, tmp_path / "t")
    path = tmp_path / "t" / "tokenizer_config.json"
    for changes in ({"tokenizer_class": "Qwen2Tokenizer"}, {"auto_map": {"AutoTokenizer": ["x.Y", None]}}):
        path.write_text(json.dumps(json.loads(path.read_bytes()) | changes), encoding="utf-8")
        assert read_plain(tmp_path / "t") is None
    (tmp_path / "t" / "tokenizer.json").unlink()
    assert read_plain(tmp_path / "t") is None
