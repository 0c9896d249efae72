"""A tokenizer in GGUF has every id, what each is, and is refused where llama.cpp would split text otherwise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hantune.assets import tokenizer_path
from hantune.errors import RefusedError
from hantune.models.export.gguf_tokens import BYTE, CONTROL, NORMAL, SPLITS, UNKNOWN, UNUSED, USER_DEFINED, gguf_tokens
from hantune.models.tokenizer import load_tokenizer


def test_sentencepiece_keeps_scores_and_kinds() -> None:
    import sentencepiece

    folder = Path(tokenizer_path())
    tokenizer = load_tokenizer(folder)
    found = gguf_tokens(folder, tokenizer, len(tokenizer) + 2)
    own = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    assert found.model == "llama"
    assert found.adds_blank
    for number in range(own.get_piece_size()):
        assert found.pieces[number] == own.id_to_piece(number)
        assert found.scores[number] == own.get_score(number)
    assert found.kinds[:4] == [UNKNOWN, CONTROL, CONTROL, BYTE]
    assert found.kinds[-2:] == [UNUSED, UNUSED]
    assert found.kinds[tokenizer.convert_tokens_to_ids("你")] == NORMAL


def byte_level(byte_tokenizer_folder: Path, folder: Path, pre_tokenizer: Any) -> Path:
    folder.mkdir()
    for path in byte_tokenizer_folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    described = json.loads((folder / "tokenizer.json").read_bytes())
    described["pre_tokenizer"] = pre_tokenizer
    (folder / "tokenizer.json").write_text(json.dumps(described), encoding="utf-8")
    return folder


def steps(pattern: str) -> dict[str, Any]:
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    last = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {"type": "Sequence", "pretokenizers": [split, last]}


@pytest.mark.parametrize(("pattern", "name"), SPLITS.items())
def test_byte_level_names_its_split(
    pattern: str, name: str, byte_tokenizer: Any, byte_tokenizer_folder: Path, tmp_path: Path
) -> None:
    folder = byte_level(byte_tokenizer_folder, tmp_path / "t", steps(pattern))
    found = gguf_tokens(folder, byte_tokenizer, len(byte_tokenizer))
    assert (found.model, found.split) == ("gpt2", name)
    assert found.pieces == byte_tokenizer.convert_ids_to_tokens(range(len(byte_tokenizer)))
    assert all(merge.count(" ") == 1 for merge in found.merges)
    assert found.kinds[byte_tokenizer.convert_tokens_to_ids("<|im_end|>")] in (CONTROL, USER_DEFINED)


def test_gpt2_needs_no_pattern(byte_tokenizer: Any, byte_tokenizer_folder: Path) -> None:
    assert gguf_tokens(byte_tokenizer_folder, byte_tokenizer, len(byte_tokenizer)).split == "gpt-2"


@pytest.mark.parametrize("pattern", [r"\p{L}+", r" ?[^(\s|[.,!?…。，、।۔،])]+"])
def test_a_split_without_a_name_is_refused(
    pattern: str, byte_tokenizer: Any, byte_tokenizer_folder: Path, tmp_path: Path
) -> None:
    folder = byte_level(byte_tokenizer_folder, tmp_path / "t", steps(pattern))
    with pytest.raises(RefusedError) as caught:
        gguf_tokens(folder, byte_tokenizer, len(byte_tokenizer))
    assert caught.value.code == "export.unknown-tokenizer"


def test_more_ids_than_rows_are_refused(byte_tokenizer: Any, byte_tokenizer_folder: Path) -> None:
    with pytest.raises(RefusedError) as caught:
        gguf_tokens(byte_tokenizer_folder, byte_tokenizer, len(byte_tokenizer) - 1)
    assert caught.value.code == "export.unknown-tokenizer"
