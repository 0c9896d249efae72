"""``hantune finetune``: what a person reads at the end. Its flags are tested in ``tests/workflow/test_flags.py``."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from hantune.cli import main
from hantune.cli.finetune import app
from hantune.config.io import dump_config
from hantune.config.schema import RunConfig
from hantune.errors import RefusedError
from hantune.train import ready
from hantune.train.planning import memory, target
from hantune.train.planning.forecast import forecast
from hantune.train.planning.ladder import with_changes
from tests.runs import small_config, write_chats

ROOT = Path(__file__).resolve().parents[2]


def test_the_end_of_a_job_is_told(
    tiny_llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_chats(tmp_path / "chats.jsonl", 40)
    words = ["--dataset_name", "chats.jsonl", "--model_name_or_path", str(tiny_llama_folder), "--local_model",
             "--output_dir", "out", "--use_cpu", "--max_samples", "16", "--num_train_epochs", "1"]  # fmt: skip
    assert main(["finetune", *words]) == 0
    out, err = capsys.readouterr()
    for words_shown in ("参考:", "前:", "后:", "验证损失", "合并核对", "out/adapter", "out/merged", "hantune chat out"):
        assert words_shown in out
    assert [f"[{number}/5]" in err for number in range(1, 6)] == [True] * 5


@pytest.fixture
def tight(tiny_llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    """A job in a machine with a little less memory than it needs; also written to ``run.yaml``."""

    def let_in(*_: Any) -> None:
        raise RefusedError("test.let-in", "the weights would be loaded now")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ready, "_make_model", let_in)
    monkeypatch.setattr(memory, "process_memory", lambda: (100 << 20, 100 << 20))
    monkeypatch.setattr(target, "own_memory", lambda: 0)
    write_chats(tmp_path / "chats.jsonl", 40)
    changes = {"train__activation_checkpointing": False, "train__prepack": False, "train__memory_check": True}
    changes["data__val_share"] = 0.2
    config = small_config(tiny_llama_folder, Path("chats.jsonl"), Path("out"), **changes)
    Path("run.yaml").write_text(dump_config(config), encoding="utf-8")
    found = forecast(config, tmp_path / "scratch").outlook.memory
    room = found.needed - int(0.02 * (found.needed - found.process))
    monkeypatch.setattr(target, "free_memory", lambda device: room)
    return config


def test_a_job_that_does_not_fit_does_not_start(tight: RunConfig, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["finetune", "--output_dir", "out", "--use_cpu", "--config_file"]
    assert main([*words, "run.yaml", "--json"]) == 3
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["code"] == "plan.no-fit"
    assert re.search(r"train.activation_checkpointing=true +省 .* 剩 ", error["message"])
    assert "train.memory_check=false" in error["hint"]
    assert main(["plan", "run.yaml", "--write", "small.yaml", "--json"]) == 3
    blind = with_changes(tight, {"train.memory_check": False})
    Path("blind.yaml").write_text(dump_config(blind), encoding="utf-8")
    capsys.readouterr()
    for file in ("small.yaml", "blind.yaml"):
        assert main([*words, file, "--json"]) == 3
        assert json.loads(capsys.readouterr().out)["error"]["code"] == "test.let-in", file


def test_the_script_explains_every_flag_and_no_other() -> None:
    """``run_finetune.sh --help`` is written by hand so that it needs no environment."""
    explained = set(re.findall(r"^  (--\w+)", (ROOT / "run_finetune.sh").read_text(encoding="utf-8"), re.MULTILINE))
    function = app.registered_commands[0].callback
    assert function is not None
    taken = {f"--{name}" for name in function.__annotations__} - {"--context", "--as_json", "--quiet", "--debug"}
    assert len(taken) == 13
    assert explained == taken
