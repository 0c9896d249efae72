"""How blocks are taken changes nothing: by several processes, at once or line by line."""

from __future__ import annotations

from pathlib import Path

import pytest

from hantune.data import blocks
from hantune.data.prepare import prepare
from hantune.errors import DataError
from tests.data.lccc_lines import files_of, use_small_blocks, write_lccc


@pytest.fixture
def source(tmp_path: Path) -> str:
    return write_lccc(tmp_path / "lccc.jsonl")


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    use_small_blocks(monkeypatch)


def test_several_processes_give_the_same_bytes(tmp_path: Path, source: str) -> None:
    prepare([source], tmp_path / "one", workers=1)
    prepare([source], tmp_path / "two", workers=2)
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")


def test_lines_at_once_are_lines_one_by_one(tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare([source], tmp_path / "one", workers=1)
    monkeypatch.setattr(blocks, "read_lines", lambda *_: None)
    prepare([source], tmp_path / "two", workers=1)
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")


def test_strict_refuses_in_another_process_too(tmp_path: Path, source: str) -> None:
    with pytest.raises(DataError) as caught:
        prepare([source], tmp_path / "out", workers=2, strict=True)
    assert (caught.value.place or "").startswith("lccc.jsonl:")
    assert not (tmp_path / "out").exists()
