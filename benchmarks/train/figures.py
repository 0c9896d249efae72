"""From what a run's meter held to the figures of the table. Pure functions.

Floor: 4N FLOPs a counted token (forward and backward through frozen matrices), N the weights in matrix products, the
head's only at supervised tokens; over the best matrix rate of the session. A share of 1 would be nothing but products.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

Step = Mapping[str, float]
TOLERANCE = {"float32": 2e-4, "bf16": 5e-3}
"""How far a row's first loss on the checked dialogues may be from hantune's in float32, by the row's numbers."""


def run_figures(result: Mapping[str, Any], warm_up: int, facts: Mapping[str, Any]) -> dict[str, Any]:
    """One run: rates over the steps after the warm-up; an epoch's processor seconds extrapolated from them."""
    steps: Sequence[Step] = result["steps"][warm_up:]
    tokens, supervised, computed, wall, cpu = (
        sum(step[name] for step in steps) for name in ("tokens", "supervised", "computed", "wall", "cpu")
    )
    return {
        "steps": len(steps),
        "tokens_per_step": round(tokens / len(steps)),
        "supervised_per_step": round(supervised / len(steps)),
        "tokens_per_second": tokens / wall,
        "supervised_per_second": supervised / wall,
        "tokens_per_cpu_second": tokens / cpu,
        "cpu_seconds_per_epoch": facts["tokens"] * cpu / tokens,
        "useful_share": tokens / computed if computed else None,
        "cpu_to_wall": cpu / wall,
        "peak_mib": result["peak_mib"],
        "start_seconds": result["start_seconds"],
        "first_losses": [round(step["loss"], 4) for step in result["steps"][:5]],
    }


def floor_tokens_per_second(facts: Mapping[str, Any], gflops: float) -> float:
    """Counted tokens a second if a step were its matrix products at the best rate."""
    weights = facts["weights"]
    learned_share = facts["supervised"] / facts["tokens"]
    return gflops * 1e9 / (4 * (weights["layers"] + learned_share * weights["head"]))


def row_figures(runs: Sequence[Mapping[str, Any]], floor: float, prepacked: float) -> dict[str, Any]:
    """A row: medians over its runs, the spread of its speed, the highest memory.

    ``floor``: tokens a second of torch's own products; ``prepacked``: of products with weights laid out beforehand.
    """
    middle = {
        name: statistics.median(run[name] for run in runs)
        for name in ("tokens_per_second", "supervised_per_second", "tokens_per_cpu_second", "cpu_seconds_per_epoch")
    }
    speeds = [run["tokens_per_second"] for run in runs]
    return {
        **{name: round(value, 1) for name, value in middle.items()},
        "spread": round((max(speeds) - min(speeds)) / middle["tokens_per_second"], 3),
        "share_of_floor": round(middle["tokens_per_second"] / floor, 3),
        "share_of_prepacked": round(middle["tokens_per_second"] / prepacked, 3),
        "useful_share": runs[0]["useful_share"] and round(runs[0]["useful_share"], 3),
        "tokens_per_step": runs[0]["tokens_per_step"],
        "supervised_per_step": runs[0]["supervised_per_step"],
        "peak_mib": max(run["peak_mib"] for run in runs),
        "cpu_to_wall": round(statistics.median(run["cpu_to_wall"] for run in runs), 2),
    }


def check_figures(result: Mapping[str, Any], reference: Sequence[float], numbers: str) -> dict[str, Any]:
    """What a row did with the checked dialogues: its tokens, its losses, and whether both are right.

    ``reference``: hantune's losses in float32. The first tells whether mask and isolation are right: a leak between
    documents moves it by more than the tolerance. From the second on the numbers tell, too: adapters start at zero, and
    what bf16 adds of a small adapter is rounded away at first, in every tool.
    """
    losses = [round(step["loss"], 5) for step in result["steps"]]
    documents = result.get("documents")
    off = [round(loss - wanted, 5) for loss, wanted in zip(losses, reference, strict=True)]
    same = documents is None or documents["same"] == documents["theirs"] == documents["ours"]
    return {
        "losses": losses,
        "losses_off": off,
        "supervised": int(result["steps"][0]["supervised"]),
        "documents": documents,
        "first_batch": result.get("first_batch"),
        "is_correct": same and abs(off[0]) <= TOLERANCE[numbers],
    }
