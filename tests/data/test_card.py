"""The card says in Chinese what the manifest says, and how to make the folder again."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from hantune.data import card as module
from hantune.data.card import REASONS, card
from hantune.data.clean.rules import FILTERS
from hantune.data.intake import FATE_REASONS
from hantune.data.turns import REASONS as YIELD_REASONS

MANIFEST: dict[str, Any] = {
    "read": 10, "kept": 7, "dropped": {"format.roles": 2, "sampled-out": 1},
    "first_places": {"format.roles": "a b.json:3"},
    "train": 6, "val": 1, "fingerprint": "f" * 64,
    "sources": [{"path": "a b.json", "sha256": "0" * 64, "format": "sharegpt", "encoding": "GB18030/GBK", "read": 10,
                 "kept": 7, "part": "train"}],
    "flags": {"format": None, "max_samples": 6, "max_turns": None, "val_share": 0.1, "val": [], "seed": 7,
              "strict": True},
}  # fmt: skip


def test_the_card_holds_the_figures_and_the_command() -> None:
    text = card(MANIFEST)
    assert "读了 10 条, 留下 7 条, 去掉 3 条" in text
    assert "| a b.json | sharegpt | GB18030/GBK | 10 | 7 | 0000000000000000 |" in text
    assert "| format.roles | 说话人的次序不对 | 2 | a b.json:3 |" in text
    assert 'hantune data prepare "a b.json" --out DIR --max-samples 6 --seed 7 --val-share 0.1 --strict' in text
    text.encode("gbk")


def test_every_reason_of_the_code_has_its_words() -> None:
    folder = Path(module.__file__).parent
    files = [*folder.glob("*.py"), *(folder / "formats").glob("*.py")]
    literals = {
        node.value
        for file in files
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    cleaning = {f"clean.{name}" for name in (*FILTERS, "empty", "blocked")}
    assert set(REASONS) <= literals | cleaning
    assert cleaning | set(FATE_REASONS.values()) | set(YIELD_REASONS) <= set(REASONS)
    reasons = {text for text in literals if text.startswith("format.") and " " not in text}
    assert reasons - set(REASONS) <= {"format.unknown-name", "format.user-code", "format."}
