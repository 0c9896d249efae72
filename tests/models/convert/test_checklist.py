"""``checklist.chk``: md5sum's lines, read as md5sum reads them, compared in a thread."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hantune.errors import ModelError
from hantune.models.convert.checklist import Checklist, read_checklists


def line(path: Path) -> str:
    return f"{hashlib.md5(path.read_bytes()).hexdigest()}  {path.name}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.pth", "b.pth", "params.json"):
        (tmp_path / name).write_bytes(name.encode() * 1000)
    (tmp_path / "checklist.chk").write_text("".join(line(tmp_path / n) for n in ("a.pth", "b.pth", "params.json")))
    return tmp_path


def test_lists_name_files_of_their_folder_only(folder: Path) -> None:
    (folder / "tokenizer_checklist.chk").write_text(
        f"{'0' * 32}  ../x\n{'0' * 32}  /etc/x\nnonsense\n{'a' * 31}  y\n\n{'A' * 32} *z.model\n", encoding="utf-8"
    )
    found = read_checklists([folder, folder])
    assert {path.name for path in found} == {"a.pth", "b.pth", "params.json", "z.model"}
    assert found[folder / "z.model"] == "a" * 32


def test_sound_files_pass_and_wrong_ones_are_named(folder: Path) -> None:
    with Checklist(read_checklists([folder])) as checklist:
        checklist.require()
    (folder / "params.json").write_text("edited", encoding="utf-8")
    (folder / "b.pth").write_bytes(b"other")
    with Checklist(read_checklists([folder])) as checklist, pytest.raises(ModelError) as caught:
        checklist.require()
    assert caught.value.code == "model.bad-checksum"
    assert caught.value.place == str(folder / "b.pth")


@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 5000)), max_size=8))
def test_the_sum_is_that_of_the_file_whatever_was_fed(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[Any]
) -> None:
    """Pieces with gaps between them, twice, backwards or none at all."""
    path = tmp_path_factory.mktemp("m") / "a.pth"
    data = bytes(number % 251 for number in range(5000))
    path.write_bytes(data)
    with Checklist({path: hashlib.md5(data).hexdigest()}) as checklist:
        for start, end in cuts:
            checklist.feed(path, min(start, end), memoryview(data)[min(start, end) : max(start, end)])
        checklist.feed(path.with_name("other"), 0, memoryview(data))
        checklist.require()


def test_what_was_read_is_what_is_hashed(tmp_path: Path) -> None:
    """A disk that gives one thing to the conversion and another to md5sum would be found out."""
    path = tmp_path / "a.pth"
    path.write_bytes(b"a" * 100)
    with Checklist({path: hashlib.md5(b"a" * 100).hexdigest()}) as checklist:
        checklist.feed(path, 10, memoryview(b"b" * 5))
        with pytest.raises(ModelError, match="bad-checksum"):
            checklist.require()


def test_an_error_elsewhere_ends_the_thread(folder: Path) -> None:
    with pytest.raises(RuntimeError), Checklist(read_checklists([folder])) as checklist:
        raise RuntimeError
    assert not checklist._thread.is_alive()


def test_a_file_that_cannot_be_read_is_an_error_and_nobody_waits(folder: Path) -> None:
    with Checklist(read_checklists([folder])) as checklist:
        (folder / "a.pth").unlink()
        for _ in range(10):
            checklist.feed(folder / "a.pth", 50, memoryview(b"x"))
        (folder / "a.pth").touch()
        with pytest.raises(OSError, match=r"a\.pth"):
            checklist.require()
