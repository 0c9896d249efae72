"""The token store: what is read back is what was encoded, and a store is never stale, torn or in the way."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hantune.data import store
from hantune.data.bulk import Block, Bulk
from hantune.data.fit import fit
from hantune.data.prepared import Columns, PartWriter, Prepared
from hantune.data.store import open_tokens
from hantune.data.templates import TEMPLATES, get_template
from hantune.data.tokens import Encoder
from hantune.data.types import Conversation
from hantune.errors import MachineError
from tests.data.dialogues import conversation, encoder_of

LLAMA2 = TEMPLATES["llama2"]
TALKS = [
    conversation(f"问题{n}", "回答" * (1 + n % 5), "再问", f"再答{n}", source=f"数据.json:{n}", learn=[n % 3 != 0])
    for n in range(12)
]


@pytest.fixture
def encoder(sp_tokenizer: Any) -> Encoder:
    return encoder_of(sp_tokenizer)


def make_prepared(folder: Path, train: Sequence[Conversation], val: Sequence[Conversation] = ()) -> Prepared:
    """A PREPARED folder as ``data prepare`` writes it."""
    folder.mkdir()
    for name, talks in (("train", train), ("val", val)):
        writer, columns = PartWriter(folder / f"{name}.parquet"), Columns()
        for number, talk in enumerate(talks):
            columns.add(talk, f"{name}{number}")
        writer.write(columns.take())
        writer.close()
    manifest = {"fingerprint": f"data-{len(train)}", "train": len(train), "val": len(val)}
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return Prepared(folder)


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    return make_prepared(tmp_path / "prepared", TALKS, TALKS[:2])


def token_folders(prepared: Prepared) -> list[Path]:
    return sorted(prepared.folder.glob("tokens-*"))


def test_rows_are_the_fitted_examples(prepared: Prepared, encoder: Encoder) -> None:
    tokens = open_tokens(prepared, "train", encoder, LLAMA2, 999)
    expected = [fit(talk, LLAMA2, encoder, 999) for talk in TALKS]
    assert list(tokens) == expected
    assert tokens.dropped == {}
    assert tokens[-1] == expected[-1]
    assert tokens[2:4] == expected[2:4]
    with pytest.raises(IndexError):
        tokens[len(tokens)]


def test_columns_speak_of_the_rows(prepared: Prepared, encoder: Encoder) -> None:
    tokens = open_tokens(prepared, "train", encoder, LLAMA2, 999)
    assert tokens.lengths.tolist() == [len(example.ids) for example in tokens]
    assert tokens.learned.tolist() == [sum(example.mask) for example in tokens]
    answers = [[m.text for m in talk.messages if m.is_learned] for talk in TALKS]
    assert tokens.characters.tolist() == [sum(map(len, texts)) for texts in answers]


def test_second_opening_reads_the_first(prepared: Prepared, encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    first = list(open_tokens(prepared, "train", encoder, LLAMA2, 999))
    monkeypatch.setattr(store, "Bulk", None)
    assert list(open_tokens(prepared, "train", encoder, LLAMA2, 999)) == first
    assert len(token_folders(prepared)) == 1


def test_whatever_decides_the_ids_has_its_own_folder(prepared: Prepared, encoder: Encoder, byte_tokenizer: Any) -> None:
    open_tokens(prepared, "train", encoder, LLAMA2, 999)
    open_tokens(prepared, "val", encoder, LLAMA2, 999)
    open_tokens(prepared, "train", encoder, LLAMA2, 998)
    open_tokens(prepared, "train", encoder, LLAMA2, 999, 1)
    open_tokens(prepared, "train", encoder, TEMPLATES["belle"], 999)
    open_tokens(prepared, "train", encoder, get_template("llama2", system="系统"), 999)
    open_tokens(prepared, "train", encoder_of(byte_tokenizer), LLAMA2, 999)
    assert len(token_folders(prepared)) == 7
    open_tokens(prepared, "train", encoder, LLAMA2, 999, max_samples=3, seed=1)
    assert len(token_folders(prepared)) == 7


def test_subset_is_seeded_and_grows(prepared: Prepared, encoder: Encoder) -> None:
    def sources(count: int, seed: int) -> set[str]:
        return {e.source for e in open_tokens(prepared, "train", encoder, LLAMA2, 999, None, count, seed)}

    assert sources(5, 1) == sources(5, 1)
    assert sources(5, 1) < sources(8, 1)
    assert sources(5, 1) != sources(5, 2)
    assert sources(5, 1) != {talk.source for talk in TALKS[:5]}
    assert len(sources(99, 1)) == len(TALKS)


def test_columns_of_a_subset_speak_of_it(prepared: Prepared, encoder: Encoder) -> None:
    tokens = open_tokens(prepared, "train", encoder, LLAMA2, 999, max_samples=4, seed=3)
    assert len(tokens) == len(tokens.lengths) == len(tokens.characters) == 4
    assert tokens.lengths.tolist() == [len(example.ids) for example in tokens]


def test_turns_are_limited(prepared: Prepared, encoder: Encoder) -> None:
    tokens = open_tokens(prepared, "train", encoder, LLAMA2, 999, max_turns=1)
    assert not any("再问" in encoder.decode(example.ids) for example in tokens)
    assert tokens.dropped == {"tokens.nothing-left": 4}  # their first answer is not learned


def test_what_does_not_fit_is_counted(prepared: Prepared, encoder: Encoder) -> None:
    tokens = open_tokens(prepared, "train", encoder, LLAMA2, 10)
    assert len(tokens) == 0
    assert tokens.dropped == {"tokens.nothing-left": len(TALKS)}
    assert tokens.lengths.tolist() == tokens.learned.tolist() == tokens.characters.tolist() == []


def test_empty_part(tmp_path: Path, encoder: Encoder) -> None:
    tokens = open_tokens(make_prepared(tmp_path / "p", TALKS), "val", encoder, LLAMA2, 99)
    assert (len(tokens), tokens.dropped) == (0, {})


@pytest.mark.parametrize("damage", ["truncate", "remove", "meta"])
def test_damaged_store_is_made_anew(prepared: Prepared, encoder: Encoder, damage: str) -> None:
    whole = list(open_tokens(prepared, "train", encoder, LLAMA2, 999))
    folder = token_folders(prepared)[0]
    if damage == "truncate":
        (folder / "ids.bin").write_bytes((folder / "ids.bin").read_bytes()[:-2])
    else:
        (folder / ("meta.json" if damage == "meta" else "mask.bin")).unlink()
    assert list(open_tokens(prepared, "train", encoder, LLAMA2, 999)) == whole


def test_same_input_gives_the_same_bytes(tmp_path: Path, encoder: Encoder) -> None:
    contents = []
    for name in ("a", "b"):
        prepared = make_prepared(tmp_path / name, TALKS)
        open_tokens(prepared, "train", encoder, LLAMA2, 999)
        folder = token_folders(prepared)[0]
        contents.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert contents[0] == contents[1]


def test_folder_that_cannot_be_written_is_kept_in_memory(
    prepared: Prepared, encoder: Encoder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(path: Path, **_: Any) -> Any:
        raise MachineError("machine.no-write", "这里没有写入权限", place=str(path))

    monkeypatch.setattr(store, "new_folder", refuse)
    tokens = open_tokens(prepared, "train", encoder, LLAMA2, 999)
    assert list(tokens) == [fit(talk, LLAMA2, encoder, 999) for talk in TALKS]
    assert "内存" in capsys.readouterr().err
    assert token_folders(prepared) == []


def test_full_disk_is_told(prepared: Prepared, encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, **_: Any) -> Any:
        raise MachineError("machine.disk-full", "磁盘满了", place=str(path))

    monkeypatch.setattr(store, "new_folder", full)
    with pytest.raises(MachineError, match="磁盘满了"):
        open_tokens(prepared, "train", encoder, LLAMA2, 999)


def test_large_vocabularies_take_four_bytes(
    prepared: Prepared, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def one(bulk: Bulk, batch: Any) -> Block:
        whole = encode(bulk, batch)
        return whole._replace(ids=whole.ids.astype(np.int64) + 250_000)

    encode = Bulk.encode
    monkeypatch.setattr(encoder, "vocab_size", 250_680)
    monkeypatch.setattr(Bulk, "encode", one)
    assert min(open_tokens(prepared, "val", encoder, LLAMA2, 999)[0].ids) >= 250_000


def test_many_conversations_are_spread_over_processes(
    prepared: Prepared, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = list(open_tokens(prepared, "train", encoder, LLAMA2, 999))
    shutil.rmtree(token_folders(prepared)[0])
    monkeypatch.setattr(store, "MANY", 1)
    monkeypatch.setattr(store, "cores", lambda: 2)
    assert list(open_tokens(prepared, "train", encoder, LLAMA2, 999)) == here


def test_rows_are_mapped_not_loaded(prepared: Prepared, encoder: Encoder) -> None:
    tokens = open_tokens(prepared, "train", encoder, LLAMA2, 999)
    assert isinstance(tokens._arrays["ids"], np.memmap)


@pytest.mark.parametrize("tokens", [1, 20, 60, 10_000])
@pytest.mark.parametrize("max_samples", [None, 5])
def test_blocks_hold_every_example_once_and_in_order(
    prepared: Prepared, encoder: Encoder, tokens: int, max_samples: int | None
) -> None:
    rows = open_tokens(prepared, "train", encoder, LLAMA2, max_tokens=200, max_samples=max_samples)
    seen: list[tuple[list[int], list[int]]] = []
    for first, offsets, ids, mask in rows.blocks(tokens):
        assert first == len(seen)
        assert len(ids) <= max(tokens, rows.lengths[first])
        ends = zip(offsets[:-1], offsets[1:], strict=True)
        seen += [(ids[start:end].tolist(), mask[start:end].tolist()) for start, end in ends]
    assert seen == [(list(example.ids), list(example.mask)) for example in rows]
