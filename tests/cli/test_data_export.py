"""``data export``: parses, writes, says what was left out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hantune.cli.data_export import export_command
from hantune.cli.frame import command, new_app
from hantune.data.prepare import prepare

APP = new_app("data")
APP.callback()(lambda: None)
command(APP, "export")(export_command)


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    lines = [json.dumps({"question": f"问{number}", "answer": "答"}) for number in range(40)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    prepare([str(tmp_path / "a.jsonl")], tmp_path / "prepared")
    return tmp_path / "prepared"


def run(*words: str | Path) -> tuple[int, str]:
    """(exit code, what was printed)."""
    result = CliRunner().invoke(APP, ["export", *map(str, words)])
    return result.exit_code, result.stdout


def test_export_and_its_parts(prepared: Path) -> None:
    out = prepared.parent / "out.jsonl"
    words = (prepared, "--to", "alpaca", "--out", out)
    code, said = run(*words)
    assert (code, "--part val" in said) == (0, True)
    train = len(out.read_text("utf-8").splitlines())
    code, said = run(*words, "--part", "val", "--replace", "--json")
    assert (code, train + json.loads(said)["result"]["written"]) == (0, 40)
    assert run(*words)[0] == 3
    assert run(prepared, "--to", "alpacca", "--out", out)[0] == 2
    assert run(*words, "--part", "all")[0] == 2
    assert run(prepared.parent / "none", "--to", "alpaca", "--out", out)[0] == 5
