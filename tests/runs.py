"""Small runs for the tests of training and of the whole job."""

from __future__ import annotations

import shutil
from itertools import islice
from pathlib import Path
from typing import Any

from hantune.assets import persona_path
from hantune.config.io import as_overrides, load_config
from hantune.config.schema import RunConfig
from hantune.log import read_events
from hantune.paths import RunFolder

SMALL: dict[str, Any] = {
    "adapter.rank": 4,
    "data.max_tokens": 192,
    "train.max_steps": 2,
    "train.batch_size": 4,
    "train.learning_rate": 5e-3,
    "train.precision": "float32",
    "train.device": "cpu",
    "train.threads": 1,
    "train.memory_check": False,
    "eval.max_samples": 4,
    "eval.probes": ["你好"],
    "eval.probe_max_tokens": 3,
}
"""Two steps on a CPU, in the order of a tenth of a second; not foretold, which would take longer."""


def write_chats(path: Path, count: int, first: int = 0) -> Path:
    """``count`` dialogues of the package from ``first`` on, as a raw file."""
    with persona_path().open(encoding="utf-8") as lines:
        path.write_text("".join(islice(lines, first, first + count)), encoding="utf-8")
    return path


def small_config(model: Path, data: Path, out: Path, **changes: Any) -> RunConfig:
    """``SMALL`` for this model, data and output; ``changes`` write ``train__max_steps`` for ``train.max_steps``."""
    named = {name.replace("__", "."): value for name, value in changes.items()}
    places = {"model.path": str(model), "data.path": str(data), "train.output_dir": str(out)}
    return load_config(None, as_overrides(SMALL | places | named)).config


def folder_bytes(folder: Path) -> dict[str, bytes]:
    """Name -> content of every file below ``folder``."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def unfinished(run: RunFolder) -> RunFolder:
    """The run as if it had been killed while it wrote its result."""
    shutil.rmtree(run.adapter)
    return run


def story(run: RunFolder) -> list[tuple[Any, ...]]:
    """What a run computed, without times: every step and every evaluation."""
    steps = [(e["step"], e["loss"], e["learning_rate"], e["grad_norm"], e["tokens"], e["supervised"])
             for e in read_events(run.events, "step")]  # fmt: skip
    return steps + [(e["step"], e["loss"], e["bits_per_character"]) for e in read_events(run.events, "eval")]
