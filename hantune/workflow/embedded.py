"""The embedded default: a small Llama taught on the dialogues in the package, so that nothing has to be downloaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hantune.assets import dialogues_path, persona_path, persona_questions_path
from hantune.log import console
from hantune.paths import RunFolder

BASE_SETTINGS: dict[str, Any] = {
    "template.name": "llama2",
    "adapter.kind": "none",
    "train.epochs": 12,
    "train.batch_size": 8,
    "train.learning_rate": 2e-3,
    "train.warmup_share": 0.05,
    "eval.probes": ["你好"],
    "eval.every_steps": 10_000,
    "log.every_steps": 5,
}
"""How the small base is taught: hard, as it starts from random weights and has a minute."""

PERSONA_SETTINGS: dict[str, Any] = {
    "adapter.rank": 16,
    "adapter.alpha": 32,
    "train.epochs": 30,
    "train.batch_size": 8,
    "train.learning_rate": 3e-3,
    "eval.probes": ["你是谁？", "你好", "我今天很累"],
}
"""How the persona is tuned onto it: a larger adapter and rate than a real model wants."""


def teach_base(out: Path, *, device: str = "auto") -> Path:
    """A few-million-parameter Llama that has learned the embedded dialogues; returns its model folder.

    ``out`` is a new folder; the untaught model lies in its ``blank/``.
    """
    from hantune.config.io import as_overrides, load_config
    from hantune.data.prepare import prepare
    from hantune.models.init import init_model
    from hantune.train.run import train

    run = RunFolder(out)
    blank = init_model(out / "blank", preset="tiny", seed=0)["folder"]
    prepare([str(dialogues_path())], run.prepared, val_share=0.05)
    values = {
        **BASE_SETTINGS,
        "model.path": blank,
        "data.path": str(run.prepared),
        "train.output_dir": str(out),
        "train.device": device,
    }
    console.say("从随机参数开始, 教一个小模型说话 (约一分钟; 它靠背, 所以没见过的话它不会)")
    return train(load_config(None, as_overrides(values)).config).output


def unused_folder(wanted: Path) -> Path:
    """``wanted``, or the first of ``wanted-2``, ``wanted-3`` ... that does not exist or is empty."""
    folder, number = wanted, 2
    while folder.exists() and any(folder.iterdir()):
        folder = wanted.with_name(f"{wanted.name}-{number}")
        number += 1
    return folder


def persona_dialogues() -> Path:
    """The embedded dialogues of 小调."""
    return persona_path()


def persona_questions() -> list[dict[str, Any]]:
    """Questions for the comparison: ``{"prompt", "taught", "expected"}``; None is expected where none was taught."""
    answers = {row["messages"][0]["content"]: row["messages"][1]["content"] for row in _rows(persona_path())}
    return [{**row, "expected": answers.get(row["prompt"])} for row in _rows(persona_questions_path())]


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
