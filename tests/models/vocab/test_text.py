from __future__ import annotations

import json
from pathlib import Path

import pytest

from hantune.data.prepare import prepare
from hantune.errors import DataError
from hantune.models.vocab import text as vocab_text
from hantune.models.vocab.text import Source, read_source, weighted_runs
from tests.models.vocab_corpus import records


def test_held_out_text_is_never_chosen_from(corpus: Path) -> None:
    source = read_source(str(corpus))
    assert source.held
    assert not {text for text in source.held if text[0].isdigit()} & set(source.texts)


def test_a_prepared_folder_keeps_its_validation_part_out(corpus: Path, tmp_path: Path) -> None:
    prepare([str(corpus)], tmp_path / "prepared", val_share=0.3)
    source = read_source(str(tmp_path / "prepared"))
    manifest = json.loads((tmp_path / "prepared" / "manifest.json").read_bytes())
    assert len(source.held) == 2 * manifest["val"]
    assert len(source.texts) == 2 * manifest["train"]


def test_a_large_source_is_thinned_evenly(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = read_source(str(corpus))
    monkeypatch.setattr(vocab_text, "MOST_CHARACTERS", whole.characters // 3)
    part = read_source(str(corpus))
    assert whole.characters / 8 < part.characters <= whole.characters / 3 + 100
    assert part.stride in (4, 8)
    assert set(part.texts) <= set(whole.texts)
    assert part.held == whole.held


def test_a_small_source_weighs_more_but_not_all(tmp_path: Path) -> None:
    small, large = Source(name="s", texts=["天气"] * 10), Source(name="l", texts=["饮食"] * 90)
    assert weighted_runs([small, large]) == {"天气": 30, "饮食": 90}
    assert weighted_runs([small]) == {"天气": 10}


def test_nothing_to_hold_out_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "short.jsonl"
    path.write_text(records(("你好", "再见"), 1), encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_source(str(path))
    assert caught.value.code == "vocab.no-text"
