"""Seconds and fill of packing an epoch of LCCC-base, beside best-fit decreasing in Python, in one run.

    python benchmarks/data/pack.py [--samples 6820506] [--out FILE.json]

Lengths are log-normal with LCCC-base's mean in Llama 2 tokens (71). ``best_fit`` is timed on a fiftieth of them (its
time grows linearly: a heap of rows per remaining room).
"""

from __future__ import annotations

import argparse
import bisect
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np

from hantune.data.pack import epoch_rows, epoch_steps

BUDGETS = (4096, 8192, 16384)
SHARE = 50


def best_fit(lengths: np.ndarray, budget: int) -> float:
    """The fill of best-fit decreasing, row by row."""
    rooms: list[int] = []
    rows = 0
    for length in sorted(lengths.tolist(), reverse=True):
        place = bisect.bisect_left(rooms, length)
        if place == len(rooms):
            rows += 1
            room = budget - length
        else:
            room = rooms.pop(place) - length
        bisect.insort(rooms, room)
    return float(lengths.sum() / (rows * budget))


def measure(count: int) -> dict[str, Any]:
    lengths = np.clip(np.random.default_rng(0).lognormal(np.log(60), 0.58, count), 14, 512).astype(np.int32)
    load = os.getloadavg()[0]
    rows: dict[str, Any] = {}
    for budget in BUDGETS:
        start = time.perf_counter()
        packed = epoch_rows(lengths, budget, seed=1, epoch=0)
        seconds = time.perf_counter() - start
        rows[str(budget)] = {"seconds": round(seconds, 2), "fill": round(packed.fill(lengths, budget), 4)}
    few = lengths[: count // SHARE]
    start = time.perf_counter()
    fill = best_fit(few, BUDGETS[0])
    seconds = (time.perf_counter() - start) * SHARE
    start = time.perf_counter()
    epoch_steps(lengths, 256, seed=1, epoch=0)
    return {
        "samples": count,
        "mean_length": round(float(lengths.mean()), 1),
        "epoch_rows": rows,
        "best_fit_4096": {"seconds": round(seconds, 1), "fill": round(fill, 4)},
        "ratio_4096": round(seconds / rows["4096"]["seconds"], 1),
        "epoch_steps_256_seconds": round(time.perf_counter() - start, 2),
        "load_before_and_after": [round(load, 2), round(os.getloadavg()[0], 2)],
        "machine": {"cores": os.cpu_count(), "python": platform.python_version(), "numpy": np.__version__},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=6_820_506)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    result = json.dumps(measure(given.samples), indent=2)
    if given.out:
        given.out.write_text(result + "\n", encoding="utf-8")
    print(result)


if __name__ == "__main__":
    main()
