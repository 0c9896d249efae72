"""``hantune train`` and ``hantune resume`` as a user types them."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest

from hantune.cli import main
from hantune.cli.train import finished
from hantune.config.io import dump_config
from hantune.log import EventLog
from hantune.paths import RunFolder
from hantune.train.outcome import TrainResult
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
    for words in ("步数      1", "验证损失", "词元/秒", "hantune chat out", "out/report.html"):
        assert words in text
    for words in ("其中要学的", "算力的", "用时      训练", "最多占用  内存", "hantune model merge out"):
        assert words in text, "whoever has never trained one reads what it took and what comes next"
    assert first["result"]["report"] == "out/report.html"
    assert (written / "out" / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert main(["train", "out/config.yaml", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)["result"]
    assert again["run"] == "out-2"
    assert again["loss_after"] == first["result"]["loss_after"]


def test_a_report_that_fails_is_a_word_and_no_failure(
    written: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(run: RunFolder) -> Path:
        raise ZeroDivisionError("a page")

    monkeypatch.setattr("hantune.report.page.write_report", fail)
    assert main(["train", "run.yaml", "train.max_steps=1", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["result"]["report"] is None
    assert any("hantune report out" in text for text in answer["warnings"])


def test_the_end_tells_an_answer_that_changed_and_a_better_step(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    with closing(EventLog(run.samples)) as answers:
        for step in (0, 2, 4):
            answers.write("probe", step=step, prompt="你好", answer="好")
            answers.write("probe", step=step, prompt="你是谁?", answer=f"我\n{'很长' * step * 20}")
    told = finished(
        TrainResult(
            run=run, output=run.adapter, steps=4, loss_before=3.0, loss_after=2.5, kept_step=4, best_step=2,
            tokens_per_second=9.0, seconds=1.0,
            figures={"step_seconds": 3700.0, "save_seconds": 0.1, "cuda_memory_peak": 3 << 30},
        )
    ).text.splitlines()  # fmt: skip
    assert "问一句    你是谁?" in told
    assert "  练之前  我" in told
    assert f"  练之后  我 {'很长' * 29}..." in told
    assert any("最好的是  第 2 步" in line and "train.final=best" in line for line in told)
    assert "用时      训练 1 小时 1 分" in told
    assert "最多占用  显存 3.0 GB" in told


def test_a_dry_run_says_what_would_be_done(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(path.name for path in written.iterdir())
    assert main(["train", "run.yaml", "--dry-run"]) == 0
    text = capsys.readouterr().out
    for words in ("步数", "每步 4 条; packed", "float32", "模板 llama2", "放得下"):
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
