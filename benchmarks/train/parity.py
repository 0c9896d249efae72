"""Does speed cost learning? The same model, dialogues and token budget in several ways, several seeds; one evaluator.

    python benchmarks/train/parity.py --trl-env DIR --data SHARED_DATA --work DIR [--rows ...] [--seeds 3]

A seed draws the order of the dialogues and the adapters' first half; the base is always the same random Llama, small
and with weights spread widely enough to learn from. Every adapter is loaded by hantune and measured on the same
held-out dialogues in float32. What counts is the difference to ``--against`` beside its standard error over the seeds.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from children import HERE, Places, run, train
from rows import ROWS, chosen
from session import RESULTS, add_places, places_of, record, say, task_of, workload, write_results
from table import line

UNIT = "bits_per_character"


def train_all(places: Places, names: Sequence[str], given: argparse.Namespace, facts: Any) -> dict[str, Any]:
    """For every row and seed: the adapter's folder, the tokens it was trained on, the losses it ended with."""
    steps = math.ceil(facts["dialogues"] / facts["dialogues_per_step"]) * given.epochs
    found: dict[str, Any] = {}
    for seed in range(given.seeds):
        for name in names:
            task = {**task_of(name, "train", steps, places, given, facts), "seed": seed}
            result = train(places, ROWS[name].tool, task, f"parity-{name}-{seed}")
            tokens = {kind: int(sum(step[kind] for step in result["steps"])) for kind in ("tokens", "supervised")}
            last = statistics.mean(step["loss"] for step in result["steps"][-20:])
            found[f"{name}/{seed}"] = {
                "adapter": result["adapter"], **tokens, "steps": len(result["steps"]), "last_loss": round(last, 4)
            }  # fmt: skip
            say(f"{name} seed {seed}: {found[f'{name}/{seed}']}")
    return found


def evaluate(places: Places, trained: Mapping[str, Any], given: argparse.Namespace, facts: Any) -> dict[str, Any]:
    """Held-out measures of every adapter and of the base."""
    work = places.work / facts["name"]
    task = {
        "model": str(work / "model"),
        "data": str(work / "val"),
        "max_tokens": facts["max_tokens"],
        "adapters": {name: one["adapter"] for name, one in trained.items()},
        "threads": given.threads,
    }
    return run(places, "hantune", HERE / "peers" / "held_out.py", task, "parity-held-out")


def summary(measured: Mapping[str, Any], names: Sequence[str], seeds: int, against: str) -> dict[str, Any]:
    """For every row its values, mean and deviation over seeds, and the difference to ``against``.

    ``noise``: the standard error of that difference. Within noise: no further off than twice that.
    """
    values = {name: [measured[f"{name}/{seed}"][UNIT] for seed in range(seeds)] for name in names}
    spread = {name: statistics.stdev(found) if seeds > 1 else math.nan for name, found in values.items()}
    means = {name: statistics.mean(found) for name, found in values.items()}
    rows = {}
    for name in names:
        difference = means[name] - means[against]
        noise = math.hypot(spread[name], spread[against]) / math.sqrt(seeds)
        rows[name] = {
            "values": [round(value, 4) for value in values[name]],
            "mean": round(means[name], 4),
            "deviation": round(spread[name], 4),
            "difference": round(difference, 4),
            "noise": round(noise, 4),
            "is_within_noise": name == against or abs(difference) <= 2 * noise or difference < 0,
        }
    return rows


def markdown(found: Mapping[str, Any]) -> str:
    work, machine = found["workload"], found["machine"]
    seeds = (f"seed {seed}" for seed in range(found["seeds"]))
    head = ("row", "what", *seeds, "mean", "deviation", "difference", "its noise", "within")
    lines = [
        "# Learning parity",
        "",
        f"- Command: `{found['command']}`",
        f"- {found['date']}, {machine['cpu']}, {found['threads']} threads",
        f"- Random Llama `{work['options']['preset']}`, {work['dialogues']} dialogues x {found['epochs']} epochs, "
        f"{work['dialogues_per_step']} a step, learning rate {found['learning_rate']} ({found['schedule']}); "
        f"{work['options']['held_out']} dialogues held out",
        f"- Held-out {UNIT.replace('_', ' ')}, measured by hantune in float32; the base alone: {found['base']:.3f}; "
        f"differences to {found['against']}, their noise is the standard error over seeds",
        "",
        line(head),
        line("---" for _ in head),
    ]
    for name, row in found["rows"].items():
        numbers = [*row["values"], row["mean"], row["deviation"]]
        cells = [f"{value:.4f}" for value in numbers] + [f"{row['difference']:+.4f}", f"{row['noise']:.4f}"]
        lines.append(line((name, ROWS[name].what, *cells, "yes" if row["is_within_noise"] else "NO")))
    return "\n".join([*lines, ""])


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_places(parser)
    parser.add_argument("--rows", default="hantune-bf16,hantune-float32,trl-float32")
    parser.add_argument("--against", default="trl-float32")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--dialogues", type=int, default=2000)
    parser.add_argument("--held-out", type=int, default=300)
    parser.add_argument("--dialogues-per-step", type=int, default=16)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--learning-rate", type=float, default=1e-2)
    parser.add_argument("--out", type=Path, default=RESULTS / "train_parity.json")
    parser.set_defaults(schedule="cosine", seed=0)
    return parser.parse_args()


def main() -> None:
    given = parse()
    places, names, load = places_of(given), chosen(given.rows), os.getloadavg()[0]
    facts = workload(
        places, "lccc", data=given.data, threads=given.threads, dialogues=given.dialogues, preset=given.preset,
        dialogues_per_step=given.dialogues_per_step, held_out=given.held_out,
    )  # fmt: skip
    trained = train_all(places, names, given, facts)
    measured = evaluate(places, trained, given, facts)
    rows = summary(measured, names, given.seeds, given.against)
    for one in trained.values():
        del one["adapter"]
    found = {
        **record(given, load),
        **{key: getattr(given, key) for key in ("seeds", "epochs", "learning_rate", "schedule", "against")},
        "workload": facts,
        "base": measured["base"][UNIT],
        "rows": rows,
        "runs": {name: {**one, **measured[name]} for name, one in trained.items()},
    }
    write_results(found, markdown(found), given.out)


if __name__ == "__main__":
    main()
