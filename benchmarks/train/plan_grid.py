"""What ``hantune plan`` foretells of memory and time, against what the runs take: a table over kinds of runs on a CPU.

    python benchmarks/train/plan_grid.py --models SMALL LARGE --data SHORT LONG [--only NAME ...] [--no-time] [--again]
        [--out benchmarks/results/plan_grid]

``SMALL``, ``LARGE``: model folders, such as ``hantune model init --preset 15m`` and ``110m`` make; ``SHORT``, ``LONG``:
PREPARED folders. Each run is a process of its own; its peak is the most memory it ever held (``VmHWM``), which is
compared with the figure in its ``plan.json``. Time is foretold by ``hantune plan --measure`` in another process and
compared with what steps, evaluations and saves took; let nothing else run meanwhile. Results are kept one by one: a
grid that was stopped goes on where it was (rows that are there are not measured again, unless ``--again``).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

FULL = ["adapter.kind=none", "train.learning_rate=5e-5"]
GRID: dict[str, tuple[int, int, list[str]]] = {
    "lora float32": (1, 0, ["train.precision=float32"]),
    "lora bf16": (1, 0, ["train.precision=bf16"]),
    "lora bf16 batch 32": (1, 0, ["train.precision=bf16", "train.batch_size=32"]),
    "lora float32 long": (1, 1, ["train.precision=float32"]),
    "lora bf16 long": (1, 1, ["train.precision=bf16"]),
    "lora bf16 long recomputed": (1, 1, ["train.precision=bf16", "train.activation_checkpointing=true"]),
    "lora bf16 rank 64 ema": (1, 0, ["train.precision=bf16", "adapter.rank=64", "train.ema_decay=0.9"]),
    "lora int8": (1, 0, ["train.precision=bf16", "model.load=8bit"]),
    "lora nf4": (1, 0, ["train.precision=bf16", "model.load=4bit"]),
    "lora nf4 long": (1, 1, ["train.precision=bf16", "model.load=4bit", "train.batch_size=4"]),
    "lora sorted": (1, 0, ["train.precision=float32", "train.batching=sorted", "train.batch_size=16"]),
    "full float32": (1, 0, [*FULL, "train.precision=float32"]),
    "full adamw8bit": (1, 0, [*FULL, "train.precision=float32", "train.optimizer=adamw8bit"]),
    "full ema": (1, 0, [*FULL, "train.precision=float32", "train.ema_decay=0.9"]),
    "full long recomputed": (1, 1, [*FULL, "train.precision=float32", "train.activation_checkpointing=true"]),
    "15m lora long": (0, 1, ["train.precision=float32"]),
    "15m full": (0, 0, [*FULL, "train.precision=float32", "train.batch_size=32"]),
}
"""name -> (which model, which data, settings)."""
QUIET = ["eval.probes=[]", "eval.max_samples=16", "eval.every_steps=1000000", "train.save_every_steps=1000000"]


def run(arguments: list[str]) -> dict[str, Any]:
    """The ``result`` of a command of hantune."""
    done = subprocess.run([sys.executable, "-m", "hantune", *arguments, "--json"], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"hantune {' '.join(arguments)}\n{done.stdout}\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout)["result"]
    return found


def measured(settings: list[str], folder: Path, *, with_time: bool) -> dict[str, Any]:
    """Foretold and measured figures of one run. Bytes, seconds."""
    file = folder / "run.yaml"
    file.write_text("model: {}\n", encoding="utf-8")
    planned = run(["plan", str(file), *settings, "--measure"]) if with_time else {}
    trained = run(["train", str(file), *settings, f"train.output_dir={folder / 'run'}"])
    kept = json.loads((folder / "run" / "plan.json").read_bytes())["forecast"]["memory"]
    took = trained["step_seconds"] + trained.get("eval_seconds", 0.0) + trained.get("save_seconds", 0.0)
    figures: dict[str, Any] = {"peak_foretold": kept["peak"], "peak": trained["memory_peak"], "parts": kept}
    if with_time:
        assert planned["duration"]["is_measured"]
        figures |= {"seconds_foretold": round(planned["duration"]["total"], 2), "seconds": round(took, 2)}
    return figures


def table(results: dict[str, dict[str, Any]]) -> str:
    """Markdown."""
    lines = [
        "| run | peak foretold | peak measured | off | time foretold | time measured | off |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, row in results.items():
        cells = [f"{row[key] / 2**20:.0f} MB" for key in ("peak_foretold", "peak")]
        cells.append(f"{row['peak_foretold'] / row['peak'] - 1:+.1%}")
        if "seconds" in row:
            cells += [f"{row[key]:.1f} s" for key in ("seconds_foretold", "seconds")]
            cells.append(f"{row['seconds_foretold'] / row['seconds'] - 1:+.1%}")
        else:
            cells += ["", "", ""]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *_summary(results)]) + "\n"


def _summary(results: dict[str, dict[str, Any]]) -> Iterator[str]:
    """How many rows keep the bars."""
    for what, most in (("peak", 0.10), ("seconds", 0.15)):
        off = [row[f"{what}_foretold"] / row[what] - 1 for row in results.values() if what in row]
        if off:
            kept = sum(abs(share) <= most for share in off)
            yield f"{what}: {kept} of {len(off)} within {most:.0%}, the worst {max(off, key=abs):+.1%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs=2, required=True)
    parser.add_argument("--data", nargs=2, required=True)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--no-time", action="store_true")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    file = asked.out.with_suffix(".json") if asked.out else None
    results: dict[str, Any] = json.loads(file.read_text("utf-8"))["runs"] if file and file.is_file() else {}
    wanted = "peak" if asked.no_time else "seconds"
    for name in asked.only or GRID:
        if wanted in results.get(name, {}) and not asked.again:
            continue
        began = time.perf_counter()
        model, data, changes = GRID[name]
        places = [f"model.path={asked.models[model]}", f"data.path={asked.data[data]}"]
        settings = [*places, *QUIET, f"train.max_steps={asked.steps}", "train.device=cpu", *changes]
        with tempfile.TemporaryDirectory() as folder:
            found = measured(settings, Path(folder), with_time=not asked.no_time)
        results[name] = {**found, "took": round(time.perf_counter() - began, 1)}
        print(table({name: results[name]}).splitlines()[2], flush=True)
        if file:
            versions = {package: metadata.version(package) for package in ("torch", "transformers", "peft")}
            ordered = {each: results[each] for each in GRID if each in results}
            file.write_text(json.dumps({"versions": versions, "runs": ordered}, indent=1) + "\n", encoding="utf-8")
            file.with_suffix(".md").write_text(table(ordered), encoding="utf-8")


if __name__ == "__main__":
    main()
