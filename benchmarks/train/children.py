"""Every run is a process of its own, in its tool's environment, with the same surroundings for all."""

from __future__ import annotations

import json
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RUNNERS = {"hantune": "hantune_run.py", "trl": "trl_run.py", "llamafactory": "llamafactory_run.py"}


@dataclass(frozen=True)
class Places:
    """Pythons by tool, hantune's tree, and the folder where work, logs and results of single runs lie."""

    pythons: dict[str, Path]
    tree: Path
    work: Path


def surroundings(places: Places, tool: str, threads: int) -> dict[str, str]:
    """Environment variables, the same for all: threads, no network, and idle threads that do not spin for long.

    The last is what hantune's command line sets for itself; a thread that spins counts as processor time.
    """
    caches = str(places.work / "cache")
    return os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "GOMP_SPINCOUNT": "2000",
        "PYTHONPATH": str(places.tree) if tool == "hantune" else "",
        "HF_HOME": caches,
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_VERBOSITY": "error",
    }


def run(places: Places, tool: str, script: Path, task: dict[str, Any], name: str) -> dict[str, Any]:
    """The result a process wrote; its output goes to ``work/logs/NAME.log``.

    Raises: RuntimeError with the end of that log when the process fails.
    """
    folder = places.work / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    log, task_file, result = folder / f"{name}.log", folder / f"{name}.task.json", folder / f"{name}.result.json"
    result.unlink(missing_ok=True)
    whole = {**task, "result": str(result), "started": time.time()}
    task_file.write_text(json.dumps(whole, indent=1), encoding="utf-8")
    with log.open("wb") as output:
        done = subprocess.run(
            [str(places.pythons[tool]), str(script), str(task_file)],
            env=surroundings(places, tool, task["threads"]),
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            check=False,
        )
    if done.returncode or not result.is_file():
        raise RuntimeError(f"{name} failed ({done.returncode}); {log}:\n" + log.read_text("utf-8", "replace")[-3000:])
    found: dict[str, Any] = json.loads(result.read_bytes())
    return found


def train(places: Places, tool: str, task: dict[str, Any], name: str) -> dict[str, Any]:
    """One training run; the folder it wrote is a new one."""
    scratch = places.work / "scratch" / f"{name}-{time.time_ns()}"
    return run(places, tool, HERE / "peers" / RUNNERS[tool], {**task, "scratch": str(scratch)}, name)


def matrix_rate(places: Places, threads: int, seconds: float, name: str) -> dict[str, Any]:
    """Measured with hantune's torch; all environments have the same version."""
    return run(places, "hantune", HERE / "rate.py", {"threads": threads, "seconds": seconds}, name)
