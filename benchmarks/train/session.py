"""What both benchmarks share: their options, the work, and a record of machine and command."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from children import HERE, Places, surroundings
from environments import PACKAGES, python_of
from rows import ROWS

ROOT = HERE.parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def say(text: str) -> None:
    """A line of progress."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def add_environments(parser: argparse.ArgumentParser) -> None:
    for tool in PACKAGES:
        parser.add_argument(f"--{tool}-env", type=Path, help="folder of its environment (run.py setup)")


def add_places(parser: argparse.ArgumentParser) -> None:
    """Where environments, tree, data and scratch are, and with how many threads."""
    add_environments(parser)
    parser.add_argument("--hantune-python", type=Path, default=Path(sys.executable))
    parser.add_argument("--hantune-tree", type=Path, default=ROOT, help="the hantune that is measured")
    parser.add_argument("--data", type=Path, required=True, help="folder with lccc/, alpaca/, tokenizers/")
    parser.add_argument("--work", type=Path, required=True, help="scratch: model, data, logs; made where missing")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="hantune's configuration")


def places_of(given: argparse.Namespace) -> Places:
    pythons = {"hantune": given.hantune_python.absolute()}  # not resolved: a link is what makes an environment
    pythons |= {tool: python_of(folder.absolute()) for tool in PACKAGES if (folder := getattr(given, f"{tool}_env"))}
    return Places(pythons=pythons, tree=given.hantune_tree.resolve(), work=given.work.resolve())


def workload(places: Places, name: str, *, data: Path, threads: int, **options: Any) -> dict[str, Any]:
    """The facts of a work, made where it is not there yet; work of other options is not taken for it.

    Raises: SystemExit for work of other options.
    """
    out = places.work / name
    asked = {"name": name, **options}
    if not (out / "facts.json").is_file():
        command = [str(places.pythons["hantune"]), str(HERE / "workload.py"), str(out), "--data", str(data)]
        command += [word for key, value in asked.items() for word in (f"--{key.replace('_', '-')}", str(value))]
        subprocess.run(command, env=surroundings(places, "hantune", threads), check=True, stdout=subprocess.DEVNULL)
    facts: dict[str, Any] = json.loads((out / "facts.json").read_bytes())
    if other := {key: facts["options"].get(key) for key in asked if facts["options"].get(key) != asked[key]}:
        raise SystemExit(f"{out} was made with {other}; remove it, or give another --work")
    return facts


def task_of(name: str, part: str, steps: int, places: Places, given: argparse.Namespace, facts: Any) -> dict[str, Any]:
    """What the runner of a row is told."""
    row = ROWS[name]
    work = places.work / facts["name"]
    return {
        "model": str(work / row.model),
        "data": str(work / part),
        "settings": {**row.settings, "set": given.set} if row.tool == "hantune" else row.settings,
        "steps": steps,
        **{key: getattr(given, key) for key in ("learning_rate", "schedule", "seed", "threads")},
        **{key: facts[key] for key in ("max_tokens", "dialogues_per_step", "row_tokens", "rows_per_step")},
    }


def record(given: argparse.Namespace, load: float) -> dict[str, Any]:
    """What every results file says about its making; no folder of this machine."""
    script, *words = sys.argv
    public = [Path(word).name if word.startswith("/") else word for word in words]
    return {
        "command": " ".join(["python", os.path.relpath(script, ROOT), *public]),
        "date": time.strftime("%Y-%m-%d"),
        "machine": {
            "cpu": cpu_name(),
            "cores": os.cpu_count(),
            "load": [round(load, 2), round(os.getloadavg()[0], 2)],
            "python": platform.python_version(),
        },
        "threads": given.threads,
        "set": given.set,
    }


def cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def write_results(found: dict[str, Any], text: str, out: Path) -> None:
    """The JSON and beside it the Markdown, which is printed too."""
    out.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    out.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)
