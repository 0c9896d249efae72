"""``hantune plan`` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hantune.cli import main
from hantune.config.io import dump_config, load_config
from hantune.train.planning import target
from tests.runs import small_config, write_chats


@pytest.fixture
def written(tiny_llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_chats(tmp_path / "chats.jsonl", 20)
    changes = {"train__memory_check": True, "data__val_share": 0.3, "train__activation_checkpointing": False}
    config = small_config(tiny_llama_folder, Path("chats.jsonl"), Path("out"), **changes)
    (tmp_path / "run.yaml").write_text("# 我的配置\n" + dump_config(config), encoding="utf-8")
    return tmp_path


def test_the_table_and_a_dry_run_say_the_same(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(path.name for path in written.iterdir())
    assert main(["plan", "run.yaml"]) == 0
    text = capsys.readouterr().out
    shown = ("底座权重", "优化器", "中间结果", "最高", "放得下", "载入时", "磁盘", "步数", "可能差一倍", "模板 llama2")
    for words in shown:
        assert words in text
    text.encode("gbk")
    assert main(["plan", "run.yaml", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)["result"]
    assert main(["train", "run.yaml", "--dry-run", "--json"]) == 0
    dry = json.loads(capsys.readouterr().out)["result"]
    assert plan["memory"]["tensors"] == dry["memory"]["tensors"]
    assert plan["total_steps"] == dry["total_steps"] == 2
    assert plan["check"]["kept"] == plan["num_samples"]
    assert plan["ladder"] is None
    assert plan["duration"]["is_measured"] is False
    assert sorted(path.name for path in written.iterdir()) == before, "nothing is left behind"


def test_measured_where_asked(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "run.yaml", "--measure"]) == 0
    assert "实测" in capsys.readouterr().out


def test_what_does_not_fit_is_written_as_a_configuration_that_does(
    written: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "run.yaml", "--devices", "1GB", "--json"]) == 0
    tensors = json.loads(capsys.readouterr().out)["result"]["memory"]
    room = tensors["process"] + int(0.97 * (tensors["peak"] - tensors["process"]))
    tight = ["--devices", "1GB"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(target, "USABLE", room / 2**30)
        assert main(["plan", "run.yaml", *tight, "--write", "small.yaml", "train.epochs=2"]) == 3
        told = capsys.readouterr()
        assert "plan.no-fit" in told.err + told.out
        assert "放不下" in told.out
        assert "写好了" in told.out
        small = load_config(Path("small.yaml")).config
        assert small.train.activation_checkpointing is True
        assert small.train.epochs == 2, "what was typed is kept"
        assert Path("small.yaml").read_text(encoding="utf-8").startswith("# 我的配置")
        assert main(["plan", "small.yaml", *tight, "--quiet"]) == 0
        capsys.readouterr()
        assert main(["plan", "run.yaml", "--write", "small.yaml", "--json"]) == 2
        assert json.loads(capsys.readouterr().out)["error"]["code"] == "config.exists"


@pytest.mark.parametrize(
    ("words", "exit_code", "code"),
    [
        (["run.yaml", "--devices", "a100"], 2, "plan.bad-devices"),
        (["run.yaml", "--devices", "8GB", "--measure"], 2, "plan.bad-devices"),
        (["run.yaml", "data.path=nowhere.jsonl"], 5, "source.missing"),
        (["run.yaml", "model.path=nowhere"], 3, "model.not-found"),
        (["nowhere.yaml"], 2, "config.missing"),
    ],
)
def test_what_goes_wrong_has_its_exit_code(
    written: Path, words: list[str], exit_code: int, code: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", *words, "--json"]) == exit_code
    assert json.loads(capsys.readouterr().out)["error"]["code"] == code
