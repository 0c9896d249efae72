"""Merged shards are one run, to the byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hantune.data.prepare import prepare
from hantune.data.shards import is_shard, parse_shard
from hantune.errors import ConfigError, DataError
from tests.data.lccc_lines import files_of, use_small_blocks, write_lccc


@pytest.fixture
def source(tmp_path: Path) -> str:
    return write_lccc(tmp_path / "lccc.jsonl")


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    use_small_blocks(monkeypatch)


@pytest.mark.parametrize(
    "flags", [{}, {"dedup": "exact", "max_turns": 1}, {"clean": "default", "pii": "drop"}, {"max_samples": 300}]
)
def test_merged_shards_are_one_run(tmp_path: Path, source: str, flags: dict[str, Any]) -> None:
    prepare([source], tmp_path / "one", workers=1, **flags)
    folders = [tmp_path / f"shard-{number}" for number in (2, 3, 1)]
    for folder in folders:
        prepare([source], folder, shard=f"{folder.name[-1]}/3", workers=1, **flags)
        assert is_shard(folder)
    prepare([str(folder) for folder in folders], tmp_path / "merged")
    assert files_of(tmp_path / "merged") == files_of(tmp_path / "one")


def test_shards_must_be_all_there_and_of_one_kind(tmp_path: Path, source: str) -> None:
    for number in (1, 2):
        prepare([source], tmp_path / f"s{number}", shard=f"{number}/3")
    prepare([source], tmp_path / "other", shard="3/3", seed=7)
    with pytest.raises(DataError) as caught:
        prepare([str(tmp_path / "s1"), str(tmp_path / "s2")], tmp_path / "out")
    assert caught.value.code == "shard.incomplete"
    assert "3/3" in caught.value.message
    with pytest.raises(DataError) as caught:
        prepare([str(tmp_path / name) for name in ("s1", "s2", "other")], tmp_path / "out")
    assert caught.value.code == "shard.mixed"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "a/b", "1/0"])
def test_numbers_that_are_no_shard(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_shard(text)
    assert caught.value.code == "shard.bad-number"


def test_masking_counts_in_order_and_cannot_be_shared_out(tmp_path: Path, source: str) -> None:
    with pytest.raises(ConfigError) as caught:
        prepare([source], tmp_path / "out", pii="mask", shard="1/2")
    assert caught.value.code == "shard.in-order"
