"""``hantune model expand-vocab``: what a user types and reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hantune.cli import main

TALK = ("今天天气怎么样？", "糖尿病患者应该注意饮食。", "医生说应该注意休息，多喝水。", "明天上午我们去医院检查。")


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = main([str(word) for word in words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def talk(tmp_path: Path) -> Path:
    path = tmp_path / "talk.jsonl"
    lines = [
        json.dumps({"instruction": f"{number} {text}", "output": TALK[number % 4]}, ensure_ascii=False)
        for number in range(20)
        for text in TALK
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_a_corpus_gives_pieces_and_their_gain(
    talk: Path, tiny_bloom_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out_folder = tmp_path / "out"
    command = ("model", "expand-vocab", tiny_bloom_folder, "--out", out_folder, "--corpus", talk)
    code, out, _ = run(capsys, *command, "--num-pieces", 30)
    assert code == 0
    assert "加了 30 个词" in out
    assert "每字词元" in out
    assert "每字比特" in out
    assert f"model.path={out_folder}" in out
    out.encode("gbk")
    code, _, err = run(capsys, *command)
    assert code == 3
    assert "run.exists" in err
    code, out, _ = run(capsys, "model", "check", out_folder, "--json")
    assert (code, json.loads(out)["result"]["vocab_rows"] % 64) == (0, 0)


def test_json_has_the_report(
    talk: Path, tiny_llama_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = tmp_path / "words.txt"
    words.write_text("糖尿病\n医院检查\n", encoding="utf-8")
    command = ("model", "expand-vocab", tiny_llama_folder, "--out", tmp_path / "out", "--pieces", words)
    code, out, _ = run(capsys, *command, "--corpus", talk, "--rows", "mean-all", "--no-measure", "--json")
    result = json.loads(out)["result"]
    assert code == 0
    assert result["start"] == "mean-all"
    assert "bits_per_character" not in result
    assert result["measured"][0]["fewer"] > 1


@pytest.mark.parametrize("sources", [(), ("--sp-model", "a.model", "--pieces", "b.txt")])
def test_one_place_must_be_said_where_pieces_come_from(
    sources: tuple[str, ...], tiny_llama_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, "model", "expand-vocab", tiny_llama_folder, "--out", tmp_path / "out", *sources)
    assert code == 2
    assert "cli.usage" in err
