"""What is measured inside a run, the same for every tool: clocks and tokens of each step. Standard library only.

A runner reads its task (``read_task``), hands every micro-batch and every finished step to a ``Meter``, and writes what
the meter holds with ``Meter.write``. All arithmetic on it is the table's.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

IGNORED = -100
PACKAGES = ("torch", "transformers", "peft", "accelerate", "trl", "llamafactory", "datasets", "tokenizers")


def read_task() -> dict[str, Any]:
    """The task of this process: the JSON file that its command line names."""
    task: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    return task


class Meter:
    """Steps one after another; a step lasts from the end of the one before, so data and logging count."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self.notes: dict[str, Any] = {}
        self._sums = dict.fromkeys(("tokens", "supervised", "computed", "loss"), 0.0)
        self.start()

    def start(self) -> None:
        """The first step begins."""
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        self._began = time.time()

    def add(self, **amounts: float) -> None:
        """A micro-batch: real, supervised and computed (with padding) tokens, or a part of the step's loss."""
        for name, amount in amounts.items():
            self._sums[name] += amount

    def step(self) -> None:
        """The step is over."""
        wall, cpu = time.perf_counter(), time.process_time()
        self.steps.append({**self._sums, "wall": wall - self._wall, "cpu": cpu - self._cpu})
        self._wall, self._cpu = wall, cpu
        self._sums = dict.fromkeys(self._sums, 0.0)

    def write(self, task: dict[str, Any]) -> None:
        """Everything, where the task wants it."""
        found = {
            "steps": self.steps,
            "peak_mib": peak_mib(),
            "start_seconds": round(self._began - task["started"], 1),
            "versions": versions(),
            **self.notes,
        }
        Path(task["result"]).write_text(json.dumps(found, ensure_ascii=False), encoding="utf-8")


def peak_mib() -> int:
    """The highest resident memory of this process."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) >> 10 for line in status.splitlines() if line.startswith("VmHWM:"))


def versions() -> dict[str, str]:
    """Of the packages that are here."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def agreement(documents: Iterable[tuple[Sequence[int], Sequence[int]]], expected: Path) -> dict[str, int]:
    """How many of a tool's documents (ids, labels) are, id for id and label for label, those that hantune trains."""
    ours = Counter((tuple(row["ids"]), tuple(row["mask"])) for row in json.loads(expected.read_bytes()))
    theirs = Counter((tuple(ids), tuple(int(label != IGNORED) for label in labels)) for ids, labels in documents)
    return {"same": (ours & theirs).total(), "theirs": theirs.total(), "ours": ours.total()}
