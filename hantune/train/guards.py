"""What stops a run before it wastes hours: the figures of its steps and its weights, watched.

Each guard stops for what it names and for nothing else; a run that learns never meets one. With ``train.guards=warn``
only figures that are not numbers stop a run, for there is nothing left to train then.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from hantune.config.schema import TrainSection
from hantune.errors import TrainError
from hantune.train.remedy import Remedy
from hantune.train.step import StepResult
from hantune.train.watchdog import Watchdog

MAX_BAD_STEPS = 3
"""Steps in a row whose loss or gradient is not a number before the run stops (trap D1)."""
UPDATES_TO_MOVE = 10
"""Updates after which something learned must have changed."""
MAX_SPIKES_TOLD = 5
"""Gradient spikes that a run tells of; more say nothing new."""

MAX_SOURCES = 64
"""Places that the event log keeps of such a step."""
SUM_AT_ONCE = 1 << 24
"""Numbers of a weight that are summed at once: their copies in double precision take 128 MiB."""


class Finding(NamedTuple):
    """Something to be told that stops nothing yet."""

    code: str
    text: str
    sources: list[str] = []


class Guards:
    """The steps seen so far. ``bad_steps``: how many of the last ones in a row were not finite."""

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        section: TrainSection,
        remedy: Remedy,
        *,
        is_float32: bool = True,
    ) -> None:
        """``is_float32``: whether all is computed in float32, so that precision is no way out."""
        self.bad_steps = 0
        self.watchdog = Watchdog()
        self._parameters = parameters
        self._section = section
        self._remedy = remedy
        self._is_float32 = is_float32
        self._spikes = 0
        self._updates = 0
        self._sums: list[float] | None = None
        self._is_told = False
        self._held_out: float | None = None

    def start(self) -> None:
        """Remember the weights as they are before the first update."""
        self._sums = self._weight_sums()

    def expect(self, held_out: float) -> None:
        """The held-out loss before the first update: a run may break in its first steps, with nothing else to tell."""
        self._held_out = held_out

    def see(
        self, step: int, result: StepResult, *, last_good: int, sources: Callable[[], list[str]] = list
    ) -> list[Finding]:
        """Look at what ``step`` (counted from 1) brought; returns what is to be told.

        ``last_good``: the step of the newest good checkpoint; ``sources``: where the step's samples come from.
        Raises: TrainError ``train.not-finite``, ``train.diverged``, ``train.not-learning``.
        """
        self._require_numbers(step, result, last_good)
        if not result.is_finite:
            return []
        if self._held_out is not None:
            self.watchdog.expect(max(self._held_out, result.loss))  # the trained dialogues may be harder ones
            self._held_out = None
        found = [*self._look_at_norm(step, result, sources), *self._look_at_weights(step, result)]
        self.watchdog.add(result.loss, result.grad_norm)
        return found + self._look_at_loss(step, last_good)

    @property
    def is_suspect(self) -> bool:
        """Whether a checkpoint of now might not be a good one."""
        return self.bad_steps > 0 or self.watchdog.is_suspect

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            "bad_steps": self.bad_steps,
            "watchdog": self.watchdog.state(),
            "spikes": self._spikes,
            "updates": self._updates,
            "sums": self._sums,
            "is_told": self._is_told,
            "held_out": self._held_out,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of ``state``."""
        self.bad_steps, self._spikes, self._updates = state["bad_steps"], state["spikes"], state["updates"]
        self._sums, self._is_told, self._held_out = state["sums"], state["is_told"], state["held_out"]
        self.watchdog.restore(state["watchdog"])

    def _require_numbers(self, step: int, result: StepResult, last_good: int) -> None:
        """fp16 finds its loss scale by letting gradients overflow; only when it has come down to 1 is that a fault."""
        is_searching = result.scale is not None and result.scale > 1 and math.isfinite(result.loss)
        self.bad_steps = 0 if result.is_finite or is_searching else self.bad_steps + 1
        if self.bad_steps >= MAX_BAD_STEPS:
            raise TrainError(
                "train.not-finite",
                f"连续 {MAX_BAD_STEPS} 步的损失或梯度不是有限的数 (NaN 或 Inf), 已停下; {_kept(last_good)}",
                place=f"第 {step} 步",
                hint=self._half_the_rate if self._is_float32 else self._remedy.anew("train.precision=float32"),
            )

    def _look_at_loss(self, step: int, last_good: int) -> list[Finding]:
        best = self.watchdog.best
        if best is None or not self.watchdog.has_diverged:
            return []
        rise = f"损失从 {best.loss:.2f} 升到 {self.watchdog.latest:.2f}, 降不回来"
        error = TrainError(
            "train.diverged",
            f"训练发散了: {rise}; {_kept(last_good)}",
            place=f"第 {step} 步",
            hint=self._half_the_rate,
        )
        return self._stop_or_tell(error)

    def _look_at_norm(self, step: int, result: StepResult, sources: Callable[[], list[str]]) -> list[Finding]:
        is_clipped = result.grad_norm > (self._section.max_grad_norm or 1.0)
        if self._spikes >= MAX_SPIKES_TOLD or not (is_clipped and self.watchdog.is_spike(result.grad_norm)):
            return []
        self._spikes += 1
        places = sources()
        text = (
            f"第 {step} 步的梯度突然变大 ({result.grad_norm:.1f}); 看看这一步的数据: {_listed(places)}; "
            "反复出现就减小 train.learning_rate"
        )
        return [Finding("train.gradient-spike", text, places[:MAX_SOURCES])]

    def _look_at_weights(self, step: int, result: StepResult) -> list[Finding]:
        """Whether anything was learned, looked at once."""
        self._updates += 1
        if self._sums is None or self._updates < UPDATES_TO_MOVE:
            return []
        before, self._sums = self._sums, None
        if self._weight_sums() == before:
            return self._stop_or_tell(self._not_learning(step, result))
        still = [name for name, weight in self._parameters.items() if "lora_B" in name and not bool(weight.any())]
        if not still:
            return []
        text = f"{len(still)} 层适配器在 {UPDATES_TO_MOVE} 次更新后还是零, 它们没有参加计算: {_listed(still)}"
        return [Finding("train.not-learning", text)]

    def _not_learning(self, step: int, result: StepResult) -> TrainError:
        if result.grad_norm == 0:
            why = "梯度全是 0, 能学的参数没有参加计算"
            hint = self._remedy.anew("adapter.targets=all-linear")
        else:
            why = f"学习率 {self._section.learning_rate:g} 太小, 更新被舍入掉了"
            hint = self._remedy.anew("train.learning_rate=2e-4")
        return TrainError(
            "train.not-learning",
            f"{UPDATES_TO_MOVE} 次更新后参数一点没变: {why}",
            place=f"第 {step} 步",
            hint=hint,
        )

    def _stop_or_tell(self, error: TrainError) -> list[Finding]:
        if self._section.guards == "stop":
            raise error
        if self._is_told:
            return []
        self._is_told = True
        return [Finding(error.code, error.message)]

    def _weight_sums(self) -> list[float]:
        parts = [torch.split(weight.detach().flatten(), SUM_AT_ONCE) for weight in self._parameters.values()]
        return [sum(float(part.double().sum()) for part in tensor) for tensor in parts]

    @property
    def _half_the_rate(self) -> str:
        return self._remedy.anew(f"train.learning_rate={self._section.learning_rate / 2:g}")


def _kept(last_good: int) -> str:
    """What there is to fall back on."""
    return f"好检查点到第 {last_good} 步" if last_good else "这时还没有检查点"


def _listed(names: Sequence[str]) -> str:
    """The first few names."""
    return ", ".join(names[:3]) + (f" 等 {len(names)} 处" if len(names) > 3 else "")
