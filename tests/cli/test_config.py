"""``hantune config``, as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hantune.cli import main


def test_show_says_where_each_value_comes_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("preset: tiny-cpu\ntemplate:\n  system: 你好\n", encoding="utf-8")
    assert main(["config", "show", str(path), "train.seed=0", "--json"]) == 0
    settings = json.loads(capsys.readouterr().out)["result"]["settings"]
    assert settings["train.seed"] == {"value": 0, "from": "命令行"}
    assert settings["template.system"] == {"value": "你好", "from": f"{path}:3"}
    assert settings["train.device"]["from"] == "预设 tiny-cpu"
    assert main(["config", "show", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(settings)
    assert any(line.split() == ["template.system", "你好", f"{path}:3"] for line in lines)


def test_check_lists_what_is_wrong_and_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("train:\n  batchsize: 1\n  epochs: 0\n", encoding="utf-8")
    assert main(["config", "check", str(path)]) == 2
    shown = capsys.readouterr().err
    assert "config.invalid" in shown
    assert f"{path}:2  没有这个设置 train.batchsize; 是不是 train.batch_size?" in shown
    assert f"{path}:3  train.epochs 要大于 0" in shown
    path.write_text("train:\n  epochs: 1\n", encoding="utf-8")
    assert main(["config", "check", str(path)]) == 2
    assert "config.incomplete" in capsys.readouterr().err
    assert main(["config", "check", str(path), "model.path=m", "data.path=d"]) == 0
    assert "√" in capsys.readouterr().out
