"""The same training in hantune, TRL and LLaMA-Factory, taking turns on one machine; a table. See README.md.

    python benchmarks/train/run.py setup   --trl-env DIR --llamafactory-env DIR
    python benchmarks/train/run.py measure --trl-env DIR --llamafactory-env DIR --data SHARED_DATA --work DIR
    python benchmarks/train/run.py table   benchmarks/results/train_lccc.json
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from children import Places, matrix_rate, train
from environments import PACKAGES, make
from figures import check_figures, floor_tokens_per_second, row_figures, run_figures
from rows import ROWS, SETS, chosen
from session import (
    RESULTS,
    add_environments,
    add_places,
    places_of,
    record,
    say,
    task_of,
    workload,
    write_results,
)
from table import markdown

REFERENCE = "hantune-float32"
"""The row whose losses on the checked dialogues the others are held to."""


def attempt(places: Places, name: str, task: dict[str, Any], log: str) -> dict[str, Any] | None:
    """What the runner of a row wrote; None where it failed, which costs the other rows nothing."""
    try:
        return train(places, ROWS[name].tool, task, log)
    except RuntimeError as error:
        say(str(error))
        return None


def check(names: Sequence[str], places: Places, given: argparse.Namespace, facts: Any) -> dict[str, Any]:
    """Every row on the checked dialogues alone, all of them in each step, however a tool cuts it."""
    found: dict[str, Any] = {}
    reference: list[float] = []
    for name in dict.fromkeys([REFERENCE, *names]):
        task = task_of(name, "check", given.check_steps, places, given, facts)
        task |= {"dialogues_per_step": facts["checked"], "rows_per_step": facts["checked"]}
        if result := attempt(places, name, task, f"{given.workload}-check-{name}"):
            reference = reference or [step["loss"] for step in result["steps"]]
            found[name] = check_figures(result, reference, ROWS[name].floor)
            say(f"check {name}: {found[name]['losses']} {found[name]['documents']} {found[name]['is_correct']}")
    return found


def rounds(names: Sequence[str], places: Places, given: argparse.Namespace, facts: Any) -> tuple[Any, Any, Any]:
    """(runs by row, the best matrix rates, versions by tool): each round runs every row once, in turn."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    best: dict[str, Any] = {}
    versions: dict[str, Any] = {}
    for number in range(given.rounds):
        rates = matrix_rate(places, given.threads, given.rate_seconds, f"rate-{number}")
        best = {kind: max(rate, best.get(kind, rate), key=lambda r: float(r["gflops"])) for kind, rate in rates.items()}
        say(f"matrix rate {rates}")
        for name in names:
            tool = ROWS[name].tool
            steps = given.warm_up + (given.hantune_steps if tool == "hantune" else given.steps)
            task = task_of(name, "train", steps, places, given, facts)
            if result := attempt(places, name, task, f"{given.workload}-{name}-{number}"):
                runs[name].append(run_figures(result, given.warm_up, facts))
                versions[tool] = result["versions"]
                say(f"{name}: {runs[name][-1]}")
    return {name: found for name, found in runs.items() if found}, best, versions


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """The check, then all rounds. Rows of a tool whose environment was not given are left out."""
    places, load = places_of(given), os.getloadavg()[0]
    names = [name for name in chosen(given.rows) if ROWS[name].tool in places.pythons]
    facts = workload(
        places, given.workload, data=given.data, threads=given.threads, dialogues=given.dialogues, preset=given.preset,
        dialogues_per_step=given.dialogues_per_step,
    )  # fmt: skip
    checks = check(names, places, given, facts) if given.check_steps else {}
    runs, best, versions = rounds(names, places, given, facts)
    floor = {kind: floor_tokens_per_second(facts, rate["gflops"]) for kind, rate in best.items()}
    rows = {
        name: {
            "tool": ROWS[name].tool, "what": ROWS[name].what, "is_default": ROWS[name].is_default,
            **row_figures(found, *(floor[f"{ROWS[name].floor}{way}"] for way in ("", " prepacked"))), "runs": found,
        }
        for name, found in runs.items()
    }  # fmt: skip
    return {
        **record(given, load),
        **{key: getattr(given, key) for key in ("rounds", "steps", "hantune_steps", "warm_up")},
        "workload": facts,
        "versions": versions,
        "matrix_rate": best,
        "floor": {kind: round(value, 1) for kind, value in floor.items()},
        "checks": checks,
        "rows": rows,
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    add_environments(verbs.add_parser("setup", help="make the peers' environments"))
    verbs.add_parser("table", help="print a results file as Markdown").add_argument("file", type=Path)
    measuring = verbs.add_parser("measure", help="run everything")
    add_places(measuring)
    measuring.add_argument("--workload", choices=["lccc", "alpaca"], default="lccc")
    measuring.set_defaults(schedule="constant")
    measuring.add_argument("--rows", default="standard", help=f"rows and sets ({', '.join(SETS)}), with commas")
    measuring.add_argument("--rounds", type=int, default=2)
    measuring.add_argument("--steps", type=int, default=30, help="measured steps of a peer's run")
    measuring.add_argument("--hantune-steps", type=int, help="measured steps of hantune's (default: the same)")
    measuring.add_argument("--warm-up", type=int, default=3, help="steps before them that do not count")
    measuring.add_argument("--check-steps", type=int, default=3, help="steps on the checked dialogues; 0: no check")
    measuring.add_argument("--rate-seconds", type=float, default=1.0, help="for each shape of the matrix rate")
    measuring.add_argument("--dialogues", type=int, default=2000)
    measuring.add_argument("--dialogues-per-step", type=int, default=0, help="0: the workload's own")
    measuring.add_argument("--preset", default="110m")
    measuring.add_argument("--learning-rate", type=float, default=2e-4)
    measuring.add_argument("--seed", type=int, default=0)
    measuring.add_argument("--out", type=Path, help="default: benchmarks/results/train_WORKLOAD.json")
    given = parser.parse_args()
    if given.verb == "measure":
        given.hantune_steps = given.hantune_steps or given.steps
        given.out = given.out or RESULTS / f"train_{given.workload}.json"
    return given


def main() -> None:
    given = parse()
    if given.verb == "setup":
        for tool in PACKAGES:
            if folder := getattr(given, f"{tool}_env"):
                make(tool, folder)
    elif given.verb == "table":
        print(markdown(json.loads(given.file.read_bytes())))
    else:
        found = measure(given)
        write_results(found, markdown(found), given.out)


if __name__ == "__main__":
    main()
