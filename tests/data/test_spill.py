"""Sorting on disk gives what sorting in memory gives, and leaves nothing behind."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hantune.data.formats.said import Said
from hantune.data.spill import in_order

ROWS = st.builds(
    Said,
    st.integers(0, 9),
    st.sampled_from("ab"),
    st.just("名"),
    st.text(max_size=3),
    st.sampled_from("xy"),
    st.text(max_size=3),
)


@given(st.lists(ROWS, max_size=30), st.integers(1, 40))
def test_as_in_memory_and_stable(rows: list[Said], at_once: int) -> None:
    found = list(in_order(rows, lambda said: (said.chat, said.time), Said, at_once=at_once))
    assert found == sorted(rows, key=lambda said: (said.chat, said.time))


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_stays_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def rows() -> Iterator[tuple[int]]:
        yield from ((n,) for n in range(100))
        (folder,) = tmp_path.iterdir()
        assert folder.stat().st_mode & 0o777 == 0o700
        if fails:
            raise KeyError

    def sort() -> list[tuple[int]]:
        return list(in_order(rows(), lambda row: -row[0], lambda number: (number,), at_once=7))

    if fails:
        with pytest.raises(KeyError):
            sort()
    else:
        assert sort() == [(n,) for n in reversed(range(100))]
    assert not list(tmp_path.iterdir())
