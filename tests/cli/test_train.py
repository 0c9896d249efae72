"""``hantune train`` and ``hantune resume`` as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hantune.cli import main
from hantune.config.io import dump_config
from tests.runs import small_config, write_chats


@pytest.fixture
def written(tiny_llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run file for a raw data file, in the present folder."""
    monkeypatch.chdir(tmp_path)
    write_chats(tmp_path / "chats.jsonl", 20)
    config = small_config(tiny_llama_folder, Path("chats.jsonl"), Path("out"), data__val_share=0.3)
    (tmp_path / "run.yaml").write_text(dump_config(config), encoding="utf-8")
    return tmp_path


def test_train_then_resume_then_repeat(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "run.yaml", "train.max_steps=1", "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert (first["ok"], first["command"], first["result"]["steps"]) == (True, "train", 1)
    assert first["result"]["loss_after"] < first["result"]["loss_before"]
    assert main(["resume", "out"]) == 0
    text = capsys.readouterr().out
    for words in ("步数      1", "验证损失", "词元/秒", "hantune chat out", "hantune report out"):
        assert words in text
    assert main(["train", "out/config.yaml", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)["result"]
    assert again["run"] == "out-2"
    assert again["loss_after"] == first["result"]["loss_after"]


def test_a_dry_run_says_what_would_be_done(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(path.name for path in written.iterdir())
    assert main(["train", "run.yaml", "--dry-run"]) == 0
    text = capsys.readouterr().out
    for words in ("样本  训练", "步数  2 (每步 4 条)", "精度  float32", "分批  packed", "模板  llama2"):
        assert words in text
    assert main(["train", "run.yaml", "--dry-run", "--json", "train.max_steps=1"]) == 0
    assert json.loads(capsys.readouterr().out)["result"]["total_steps"] == 1
    assert sorted(path.name for path in written.iterdir()) == before


@pytest.mark.parametrize(
    ("words", "exit_code", "code"),
    [
        (["train", "nowhere.yaml"], 2, "config.missing"),
        (["train", "run.yaml", "train.epochz=1"], 2, "config.unknown-key"),
        (["train", "run.yaml", "data.path=nowhere.jsonl"], 5, "source.missing"),
        (["train", "run.yaml", "model.path=nowhere"], 3, "model.not-found"),
        (["train", "run.yaml", "--dry-run", "data.max_tokens=8"], 3, "tokens.nothing-left"),
        (["train", "run.yaml", "train.learning_rate=1e-60"], 1, "adapter.not-saved"),
        (["resume", "nowhere"], 3, "run.not-a-run"),
    ],
)
def test_what_goes_wrong_has_its_exit_code(
    written: Path, words: list[str], exit_code: int, code: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--json"]) == exit_code
    answer = json.loads(capsys.readouterr().out)
    assert (answer["ok"], answer["error"]["code"]) == (False, code)
    assert answer["error"]["hint"]
