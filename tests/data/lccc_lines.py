"""A small file like LCCC with everything odd in it, and blocks small enough for it."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from hantune.data import blocks, rows

ODD = ['["单 句"]', "{broken", "", '["有 空", ""]', '["a  b", "c d"]', '["x", 3]', '{"dialog": ["你 好", "好 的"]}']


def write_lccc(path: Path) -> str:
    """Two thousand lines, some of them odd or there twice."""
    draw = random.Random(0)
    lines = [json.dumps([f"你 {n % 900} 好", f"好 的 {n % 700}", "再 见"], ensure_ascii=False) for n in range(2000)]
    for _ in range(60):
        lines[draw.randrange(50, 2000)] = draw.choice(ODD)
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


def use_small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred records or four thousand bytes a block, and several processes for any file."""
    monkeypatch.setattr(blocks.in_blocks, "__defaults__", (100,))
    monkeypatch.setattr(rows, "CHUNK", 4000)
    monkeypatch.setattr(blocks, "LARGE", 1)


def files_of(folder: Path) -> dict[str, bytes]:
    """The contents of a folder, but for the lock that a killed process leaves."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name != ".lock"}
