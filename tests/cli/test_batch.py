"""``hantune batch`` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hantune.cli import main


def test_a_file_of_questions(tiny_bloom_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, output = tmp_path / "in.csv", tmp_path / "out.jsonl"
    source.write_bytes("问题,回答\n你好,好\n你是谁？,我\n".encode("gb18030"))
    command = [
        "batch",
        str(tiny_bloom_folder),
        "--input",
        str(source),
        "--output",
        str(output),
        "--max-new-tokens",
        "3",
    ]
    assert main([*command, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)["result"]
    assert result == {"output": str(output), "answers": 2, "errors": 0, "resumed": 0}
    rows = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert [(row["index"], row["prompt"], row["reference"]) for row in rows] == [
        (0, "你好", "好"),
        (1, "你是谁？", "我"),
    ]
    assert main(command) == 0
    assert capsys.readouterr().out == f"√ 2 个回答写到 {output}\n"


def test_an_input_that_is_not_there(
    tiny_bloom_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["batch", str(tiny_bloom_folder), "--input", str(tmp_path / "no.jsonl"), "--output", str(tmp_path / "o")]
    assert main([*command, "--json"]) == 5
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "source.missing"
