"""``hantune report`` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hantune.cli import main
from hantune.paths import RunFolder


def test_it_writes_the_page_and_says_where(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "runs/demo"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("在没见过的对话上, 损失从 5.54 降到 1.86")
    assert str(Path("runs/demo/report.html")) in out
    assert run.report.is_file()


def test_json_and_out(run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "runs/demo", "--out", "给老师.html", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["ok"] is True
    assert answer["command"] == "report"
    assert answer["result"]["report"] == "给老师.html"
    assert answer["result"]["tone"] == "good"
    assert (tmp_path / "给老师.html").is_file()
    assert not run.report.exists()


def test_a_wrong_folder_ends_3_with_code_place_and_command(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "runs/nothing"]) == 3
    err = capsys.readouterr().err
    assert "report.no-run" in err
    assert "runs/nothing" in err
    assert "hantune report runs/demo" in err
