"""When a run asks its fixed questions, and how much it lets them answer: a pure function of the run's counts.

No clock is asked: two equal runs ask at the same steps. What a round costs is counted in trained tokens, by what one
forward pass costs on such a device (docs/decisions.md); what it took in truth is measured and told at the end.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from hantune.evaluate.probes import Style

SHARES = (0.0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""At which shares of the steps the questions are asked, if the budget allows it."""
THINNER = (
    SHARES,
    (0.0, 0.05, 0.2, 0.4, 0.6, 0.8, 1.0),
    (0.0, 0.1, 0.3, 0.6, 1.0),
    (0.0, 0.3, 1.0),  # at 0.3 bad signs are judged for the first time
    (0.0, 1.0),
)
LEAST_TOKENS, USUAL_TOKENS, MOST_TOKENS = 16, 48, 256
JUDGED_COVER = 0.75
"""Endings are judged where so many of the learned replies would have room to end."""

CPU_STEP, CPU_THREADS = 24, 4
"""One decoding step on a CPU costs as much as training so many tokens, and one more for each answer. Measured with 8
answers and 3 to 110 million parameters: 15 to 26 on a quiet machine, 30 to 35 on a busy one. Many threads make training
faster, but hardly the reading of the weights that a step is."""
CUDA_LAYER_SECONDS = 1.2e-3
"""One decoding step on a card: launching kernels, layer by layer (an estimate, not measured)."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What the cost of a round hangs on. ``rereads``: the model keeps no keys and values and reads all anew."""

    total_steps: int
    trained_tokens: int
    prompt_lengths: tuple[int, ...]
    device: str
    threads: int
    layers: int
    parameters: int
    card_flops: float = 0.0
    rereads: bool = False

    def cost(self, tokens: int) -> float:
        """One round of answers of at most ``tokens`` tokens, in trained tokens."""
        rows = len(self.prompt_lengths)
        prompts = sum(self.prompt_lengths)
        row = (max(self.prompt_lengths, default=0) + tokens) / 2 if self.rereads else 1
        return prompts + tokens * (self._step() + rows * row)

    def _step(self) -> float:
        if self.device == "cpu":
            return CPU_STEP * max(1.0, self.threads / CPU_THREADS)
        seconds_per_token = 4 * self.parameters / self.card_flops
        return self.layers * CUDA_LAYER_SECONDS / seconds_per_token


@dataclass(frozen=True, kw_only=True)
class ProbePlan:
    """``steps`` (``shares`` of the run) at which is asked, the most tokens of an answer, the expected share of work.

    ``judges_stops``: whether most learned replies would end within ``max_tokens``.
    """

    steps: tuple[int, ...] = ()
    shares: tuple[float, ...] = ()
    max_tokens: int = 0
    share: float = 0.0
    judges_stops: bool = False
    data_chinese: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """For ``plan.json``."""
        return {**asdict(self), "steps": list(self.steps), "shares": list(self.shares)}

    @staticmethod
    def from_dict(values: dict[str, Any]) -> ProbePlan:
        """The inverse of ``as_dict``."""
        return ProbePlan(**{**values, "steps": tuple(values["steps"]), "shares": tuple(values["shares"])})

    def over(self, total_steps: int) -> ProbePlan:
        """The same plan for a run whose number of steps is another by now."""
        return replace(self, steps=probe_steps(total_steps, self.shares)) if self.shares else self


def probe_steps(total_steps: int, shares: Sequence[float] = SHARES) -> tuple[int, ...]:
    """The steps at these shares of the run, rising; points that fall together are one. 0 and the last are among them.

    A share above 0 is never step 0: that is the model before training.
    """
    return tuple(sorted({math.ceil(share * total_steps) for share in shares}))


def plan_probes(work: Workload, style: Style, *, most_share: float, max_tokens: int | None) -> ProbePlan:
    """The fullest plan that costs at most ``most_share`` of the run's work; begin and end are asked in any case."""
    if not work.prompt_lengths:
        return ProbePlan()
    plans = [_plan(work, style, shares, tokens) for shares, tokens in _ladder(style, max_tokens)]
    return next((plan for plan in plans if plan.share <= most_share), plans[-1])


def _ladder(style: Style, max_tokens: int | None) -> Iterator[tuple[Sequence[float], int]]:
    """Ever cheaper plans: first fewer rounds with whole answers, then shorter answers, at last only begin and end."""
    enough = min(max(2 * LEAST_TOKENS, math.ceil(1.25 * style.quantile(0.9))), MOST_TOKENS)
    full = enough if max_tokens is None else max_tokens
    usual = min(full, max(LEAST_TOKENS, min(USUAL_TOKENS, math.ceil(1.25 * style.quantile(JUDGED_COVER)))))
    yield THINNER[0], full
    yield THINNER[1], full
    for shares in THINNER[1:]:
        yield shares, usual
    yield THINNER[-1], min(full, LEAST_TOKENS)


def _plan(work: Workload, style: Style, shares: Sequence[float], tokens: int) -> ProbePlan:
    steps = probe_steps(work.total_steps, shares)
    return ProbePlan(
        steps=steps,
        shares=tuple(shares),
        max_tokens=tokens,
        share=round(len(steps) * work.cost(tokens) / max(1, work.trained_tokens), 4),
        judges_stops=style.covered(tokens) >= JUDGED_COVER,
        data_chinese=round(style.chinese_share, 4),
    )
