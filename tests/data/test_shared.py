"""Every real data file reads without a flag, and as many records come out as its README says."""

from __future__ import annotations

from pathlib import Path

import pytest

from hantune.data.formats import FORMATS
from hantune.data.prepare import prepare

FOLDERS = ("lccc", "alpaca", "dialogue", "medical", "sharegpt")
FILES = {
    "lccc/lccc_toy_split.json": ("lccc", 1200),
    "lccc/lccc_toy_pairs.txt": ("lccc", 10_000),
    "lccc/hub_lines": ("lccc", 20),
    "alpaca/alpaca_zh_1000.json": ("alpaca", 1000),
    "alpaca/alpaca_en_999.json": ("alpaca", 999),
    "alpaca/alpaca_zh_3.json": ("alpaca", 3),
    "alpaca/传统诗词及文化常识问题.json": ("alpaca", 31),
    "dialogue/film_dev.json": ("kdconv", 150),
    "dialogue/music_dev.json": ("kdconv", 150),
    "dialogue/crosswoz_val.json.zip": ("crosswoz", 500),
    "medical/huatuo_llama_med_llama_data.json": ("alpaca", 8658),
    "medical/medicalgpt_medical_sft_1K_format.jsonl": ("sharegpt", 1000),
    "medical/toyhom_neike_gb18030.csv": ("pairs", 7644),
    "sharegpt/sharegpt_zh_1000.jsonl": ("sharegpt", 1000),
}
"""file or folder -> (format, records as in the README; a file with parts has them all)."""
BROKEN = {"sharegpt/sharegpt_zh_1000.jsonl": 2}
"""file -> records that are truly no conversation (an empty question, a question alone)."""


@pytest.mark.parametrize("name", FILES)
def test_a_file_reads_without_a_flag(shared_data: Path, tmp_path: Path, name: str) -> None:
    format, count = FILES[name]
    manifest = prepare([str(shared_data / name)], tmp_path / "out")
    assert {source["format"] for source in manifest["sources"]} == {format}
    assert manifest["read"] == count
    faults = {reason: many for reason, many in manifest["dropped"].items() if reason.startswith(("format", "source"))}
    assert sum(faults.values()) == BROKEN.get(name, 0)


def test_no_file_is_forgotten(shared_data: Path) -> None:
    there = {
        path.relative_to(shared_data).as_posix()
        for folder in FOLDERS
        for path in (shared_data / folder).iterdir()
        if not path.name.startswith(".")
    }
    assert there == set(FILES)
    assert {format for format, _ in FILES.values()} <= set(FORMATS)
