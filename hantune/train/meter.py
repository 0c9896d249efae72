"""What a run costs: real (unpadded) tokens over time, the share of what the machine could do, memory, time left."""

from __future__ import annotations

import contextlib
import copy
import time
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch

from hantune.log import size
from hantune.models.memory import process_memory
from hantune.train.floor import Floor
from hantune.train.step import StepResult

KEPT = ("tokens", "supervised", "flop", "seconds", "other")
"""What a checkpoint holds of a meter."""


class _Step(NamedTuple):
    tokens: int
    supervised: int
    flop: float
    seconds: float


class Meter:
    """Tokens, time and memory of a run; sums go over all processes that had a part in it.

    ``seconds``: in steps; ``other``: kind ("eval", "probe", "save") -> [seconds, how often] that the steps waited.
    """

    def __init__(self, floor: Floor | None = None, device: torch.device | None = None, window: int = 20) -> None:
        self._floor = floor
        self._device = device
        self._recent: deque[_Step] = deque(maxlen=window)
        self._mark = time.monotonic()
        self.tokens = self.supervised = 0
        self.flop = self.seconds = 0.0
        self.other: dict[str, list[float]] = {"eval": [0.0, 0], "probe": [0.0, 0], "save": [0.0, 0]}

    def start(self) -> None:
        """Begin a step; time between steps (evaluation, saving) does not count."""
        self._mark = time.monotonic()

    def stop(self, result: StepResult, squares: int = 0) -> float:
        """End a step; returns its seconds. ``squares``: the lengths of its samples, squared and summed."""
        seconds = time.monotonic() - self._mark
        tokens, supervised = result.tokens, result.supervised
        work = self._floor.work if self._floor else None
        flop = work.of(tokens=tokens, supervised=supervised, squares=squares) if work else 0.0
        self._recent.append(_Step(tokens, supervised, flop, seconds))
        self.tokens += tokens
        self.supervised += supervised
        self.flop += flop
        self.seconds += seconds
        return seconds

    @contextlib.contextmanager
    def apart(self, kind: str) -> Iterator[None]:
        """Time that is no step's: of an "eval", a "probe" or a "save"."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.other[kind][0] += time.monotonic() - start
            self.other[kind][1] += 1

    @property
    def tokens_per_second(self) -> float:
        """Over the last steps."""
        return self._rate(sum(step.tokens for step in self._recent))

    @property
    def supervised_per_second(self) -> float:
        """Tokens that are learned, over the last steps."""
        return self._rate(sum(step.supervised for step in self._recent))

    @property
    def matmul_share(self) -> float | None:
        """Share of the measured speed of matrix products, over the last steps; None where the work is not known."""
        return self._share(self._rate(sum(step.flop for step in self._recent)))

    def _rate(self, amount: float) -> float:
        seconds = sum(step.seconds for step in self._recent)
        return amount / seconds if seconds else 0.0

    def _share(self, flop_per_second: float) -> float | None:
        return flop_per_second / self._floor.rate if self._floor else None

    def memory(self) -> dict[str, int]:
        """Bytes held now and at the peak: ``memory`` of this process, ``cuda_memory`` of tensors on the card."""
        now, peak = process_memory()
        found = {"memory": now, "memory_peak": peak}
        if self._device is not None and self._device.type == "cuda":
            found["cuda_memory"] = torch.cuda.memory_allocated(self._device)
            found["cuda_memory_peak"] = torch.cuda.max_memory_allocated(self._device)
            found["cuda_reserved_peak"] = torch.cuda.max_memory_reserved(self._device)
        return {name: value for name, value in found.items() if value is not None}

    @property
    def elapsed(self) -> float:
        """Seconds of steps, evaluations and saves."""
        return self.seconds + sum(seconds for seconds, _ in self.other.values())

    def seconds_left(self, share: float, still_to_come: Mapping[str, int]) -> float:
        """How long the rest takes, as things went so far.

        ``share`` of the run's samples are trained (0.0 to 1.0); ``still_to_come``: how many of each kind of ``other``.
        """
        speed = self.tokens_per_second
        steps = self.tokens * (1 / share - 1) / speed if share and speed else 0.0
        means = {kind: seconds / max(1, times) for kind, (seconds, times) in self.other.items()}
        return max(0.0, steps) + sum(count * means[kind] for kind, count in still_to_come.items())

    def now(self) -> dict[str, Any]:
        """The figures of a step's event."""
        share = self.matmul_share
        return {
            "tokens_per_second": round(self.tokens_per_second, 1),
            "supervised_per_second": round(self.supervised_per_second, 1),
            **({} if share is None else {"matmul_share": round(share, 4)}),
            **self.memory(),
        }

    def overall(self) -> dict[str, Any]:
        """The figures of the event that ends a run."""
        seconds = self.seconds or float("inf")
        share = self._share(self.flop / seconds)
        return {
            "seconds": round(self.seconds, 2),
            "eval_seconds": round(self.other["eval"][0], 2),
            "probe_seconds": round(self.other["probe"][0], 2),
            "save_seconds": round(self.other["save"][0], 2),
            "tokens": self.tokens,
            "supervised": self.supervised,
            "tokens_per_second": round(self.tokens / seconds, 1),
            "supervised_per_second": round(self.supervised / seconds, 1),
            **({} if share is None else {"matmul_share": round(share, 4)}),
            **self.memory(),
        }

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {name: copy.deepcopy(getattr(self, name)) for name in KEPT}

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of ``state``."""
        for name in KEPT:
            setattr(self, name, copy.deepcopy(state[name]))


def note(figures: Mapping[str, Any]) -> str:
    """A step's figures as they stand behind a progress bar: speed, share of the machine, memory."""
    parts = [f"{figures['tokens_per_second']:.0f} 词元/秒"]
    if "matmul_share" in figures:
        parts.append(f"算力 {figures['matmul_share']:.0%}")
    for name, word in (("cuda_memory_peak", "显存"), ("memory", "内存")):
        if name in figures:
            return "  ".join([*parts, f"{word} {size(figures[name])}"])
    return "  ".join(parts)
