"""``hantune eval`` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hantune.cli import main
from hantune.data.prepare import prepare


@pytest.fixture
def data(tmp_path: Path) -> Path:
    lines = [json.dumps({"question": f"第{i}个问题？", "answer": f"是{i}。"}) for i in range(20)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    prepare([str(tmp_path / "a.jsonl")], tmp_path / "out", val_share=0.3)
    return tmp_path / "out"


def test_a_table_of_measures_and_some_answers(
    tiny_llama_folder: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["eval", str(tiny_llama_folder), "--data", str(data), "--max-new-tokens", "3", "--max-samples", "4"]
    assert main([*command, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)["result"]
    assert set(result) == {"part", "held_out", "metrics", "answers"}
    assert main(command) == 0
    shown = capsys.readouterr().out
    for name in (
        "验证损失",
        "困惑度",
        "每字比特",
        "字 BLEU",
        "字 ROUGE-L",
        "chrF",
        "distinct-2",
        "自己停下",
        "中文比例",
    ):
        assert name in shown
    assert "问  第" in shown


def test_some_measures_only(tiny_llama_folder: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(tiny_llama_folder), "--data", str(data), "--metrics", "loss, perplexity"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["验证损失", "困惑度"]


def test_what_is_wrong_is_told_before_the_model_is_loaded(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "nowhere", "--data", str(data), "--metrics", "blue", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "eval.unknown-metric"
    assert main(["eval", "nowhere", "--data", str(data / "nowhere"), "--json"]) == 5
