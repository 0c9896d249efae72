"""What a finished run reached, read from what it wrote: so a run that is looked at again says the same."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hantune.config.schema import RunConfig
from hantune.log import console, duration, read_events
from hantune.paths import RunFolder
from hantune.train import checkpoint as checkpoints

FIGURES = (
    "eval_seconds", "probe_seconds", "save_seconds", "supervised_per_second", "matmul_share", "memory_peak",
    "cuda_memory_peak",
)  # fmt: skip
"""What the end of a run tells beside its speed: see ``Meter.overall``."""


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a finished run reached. Losses are mean nats per learned token on held-out data."""

    run: RunFolder
    output: Path
    steps: int
    loss_before: float | None
    loss_after: float | None
    kept_step: int
    best_step: int | None
    tokens_per_second: float
    seconds: float
    figures: dict[str, float]
    """Of all processes of the run together, where known: FIGURES."""

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "run": str(self.run.root),
            "output": str(self.output),
            "steps": self.steps,
            "loss_before": self.loss_before,
            "loss_after": self.loss_after,
            "kept_step": self.kept_step,
            "best_step": self.best_step,
            "tokens_per_second": round(self.tokens_per_second, 1),
            "seconds": round(self.seconds, 1),
            **self.figures,
        }


def say_end(run: RunFolder, result: TrainResult) -> None:
    """The end of a run in a line or two."""
    end = read_events(run.events, "end")[-1]
    if end["reason"] == "early-stop":
        console.say(f"提前停止: 验证损失不再下降, 停在第 {result.steps} 步")
    console.say(f"训练完成: {result.steps} 步, {duration(result.seconds)}, 结果在 {result.output}")


def finished_result(run: RunFolder, config: RunConfig) -> TrainResult | None:
    """The result of a run that came to its end and still has its adapter or model."""
    events = read_events(run.events)
    if events and events[-1]["event"] == "end" and output_of(run, config).is_dir():
        return result_of(run, config, 0.0)
    return None


def output_of(run: RunFolder, config: RunConfig) -> Path:
    return run.adapter if config.adapter.kind == "lora" else run.model


def result_of(run: RunFolder, config: RunConfig, seconds: float) -> TrainResult:
    """What the event log of a finished run says."""
    end = read_events(run.events, "end")[-1]
    losses = {event["step"]: event["loss"] for event in read_events(run.events, "eval")}
    best = checkpoints.best_checkpoint(run)
    return TrainResult(
        run=run,
        output=output_of(run, config),
        steps=end["step"],
        loss_before=losses.get(0),
        loss_after=losses.get(end["kept"]),
        kept_step=end["kept"],
        best_step=None if best is None else best.step,
        tokens_per_second=end["tokens_per_second"],
        seconds=seconds,
        figures={"step_seconds": end["seconds"], **{n: end[n] for n in FIGURES if n in end}, **_expected(run)},
    )


def _expected(run: RunFolder) -> dict[str, float]:
    """What was expected of memory and time before the run began."""
    forecast = json.loads(run.plan.read_bytes()).get("forecast")
    found = {} if forecast is None else {"memory_expected": forecast["memory"]["peak"]}
    start = next(iter(read_events(run.events, "start")), {})
    return {**found, **({"seconds_expected": start["expected"]["total"]} if start.get("expected") else {})}
