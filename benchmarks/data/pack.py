"""Seconds of an epoch's order and cut for as many samples as LCCC-base has, and how full the rows are.

    python benchmarks/data/pack.py [--samples 6820506] [--out FILE.json]

Lengths are log-normal with LCCC-base's mean in Llama 2 tokens (71). Cutting is timed on a hundredth of the steps: its
time is a sum over steps, and a run cuts each when it comes to it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np

from hantune.data.pack import epoch_steps, micro_batches

PER_STEP, BUDGETS, SHARE = 256, (2048, 4096, 8192), 100


def measure(count: int) -> dict[str, Any]:
    lengths = np.clip(np.random.default_rng(0).lognormal(np.log(60), 0.58, count), 14, 512).astype(np.int32)
    load = os.getloadavg()[0]
    start = time.perf_counter()
    steps = epoch_steps(lengths, PER_STEP, seed=1, epoch=0, by_length=False)
    order = time.perf_counter() - start
    rows: dict[str, Any] = {}
    for budget in BUDGETS:
        some = steps[:: SHARE]
        start = time.perf_counter()
        cuts = [
            cut
            for step in some
            for cut in micro_batches(step, lengths, batch_size=PER_STEP, batch_tokens=budget, layout="packed")
        ]
        seconds = time.perf_counter() - start
        fill = sum(int(lengths[cut].sum()) for cut in cuts) / (len(cuts) * budget)
        rows[str(budget)] = {"seconds_per_step": round(seconds / len(some), 6), "fill": round(fill, 4)}
    return {
        "samples": count,
        "samples_per_step": PER_STEP,
        "mean_length": round(float(lengths.mean()), 1),
        "order_seconds": round(order, 2),
        "cuts": rows,
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
