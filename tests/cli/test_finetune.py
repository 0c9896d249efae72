"""``hantune finetune``: what a person reads at the end. Its flags are tested in ``tests/workflow/test_flags.py``."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hantune.cli import main
from hantune.cli.finetune import app
from tests.runs import write_chats

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


def test_the_script_explains_every_flag_and_no_other() -> None:
    """``run_finetune.sh --help`` is written by hand so that it needs no environment."""
    explained = set(re.findall(r"^  (--\w+)", (ROOT / "run_finetune.sh").read_text(encoding="utf-8"), re.MULTILINE))
    function = app.registered_commands[0].callback
    assert function is not None
    taken = {f"--{name}" for name in function.__annotations__} - {"--context", "--as_json", "--quiet", "--debug"}
    assert len(taken) == 13
    assert explained == taken
