"""``hantune batch`` as a user types it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
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


def test_openai_lines_are_known_by_their_custom_id(
    tiny_bloom_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    body = {"messages": [{"role": "user", "content": "你好"}], "max_tokens": 3}
    source.write_text(json.dumps({"custom_id": "a", "body": body}) + '\n{"custom_id": "b"}\n', encoding="utf-8")
    assert main(["batch", str(tiny_bloom_folder), "--input", str(source), "--output", str(output), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)["result"]
    assert result == {"output": str(output), "answers": 1, "errors": 1, "resumed": 0}
    rows = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert [row["custom_id"] for row in rows] == ["a", "b"]
    assert rows[0]["response"]["body"]["usage"]["completion_tokens"] <= 3


@pytest.mark.slow
def test_killed_twice_it_still_answers_each_row_once(tiny_llama_folder: Path, tmp_path: Path) -> None:
    source, output, part = (tmp_path / name for name in ("in.jsonl", "out.jsonl", "out.jsonl.part"))
    source.write_text("".join(f'{{"prompt": "第{n}个问题"}}\n' for n in range(300)), encoding="utf-8")

    def command(target: Path) -> list[str]:
        given = ["--input", str(source), "--output", str(target), "--temperature", "1", "--max-new-tokens", "60"]
        return [sys.executable, "-m", "hantune", "batch", str(tiny_llama_folder), *given, "-q"]

    subprocess.run(command(tmp_path / "whole.jsonl"), check=True, timeout=280)
    for kill in range(2):
        lines = part.read_bytes().count(b"\n") if part.exists() else 1
        process = subprocess.Popen(command(output))
        end = time.monotonic() + 120
        while time.monotonic() < end and (not part.exists() or part.read_bytes().count(b"\n") <= lines):
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait(60)
        assert not output.exists()
        assert part.read_bytes().count(b"\n") > lines
        if kill:
            part.write_bytes(part.read_bytes() + b'299 {"index": 299, "prom')
    subprocess.run(command(output), check=True, timeout=280)
    assert output.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert not part.exists()
