"""What the tests of the ``data`` verbs share: small files, and what ``--json`` says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hantune.cli import main


def write(path: Path, records: list[Any]) -> str:
    """JSON Lines; returns the path as text."""
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return str(path)


def write_questions(path: Path) -> str:
    """Forty questions with answers, and one without."""
    records: list[Any] = [{"question": f"第{i}个问题", "answer": f"第{i}个回答, 写得长一点"} for i in range(40)]
    return write(path, [*records, {"question": "没有回答", "answer": ""}])


def envelope(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
    """Exit code and JSON of a command."""
    code = main([*words, "--json"])
    return code, json.loads(capsys.readouterr().out)
