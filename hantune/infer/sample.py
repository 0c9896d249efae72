"""Logits to the next tokens of many answers, each under its own parameters and its own chance.

What a row gets depends on that row alone: a seed draws the same answer whatever else is in the batch. Chance comes
from a generator of the answer's own, never from torch's global one; greedy decoding uses none.
Shape letters: B answers, V vocabulary, K candidates.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from hantune.errors import ConfigError

MOST_LOGPROBS = 20
COLD = 1e-5
"""Below this temperature the likeliest token has all the probability that float32 can tell."""
TRIES = 8
"""Draws after which a row that missed its nucleus every time is sorted."""


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How an answer is drawn. ``temperature`` 0 is greedy; ``top_k`` 0, ``top_p`` 1, penalties 1, 0 and 0 are off.

    ``seed`` None draws differently every time. ``stops`` end the answer in addition to the template's own.
    ``repetition_penalty`` looks at prompt and answer, ``frequency_penalty`` and ``presence_penalty`` at the answer.
    ``logprobs``: None for none, 0 for those of the chosen tokens, k for the k likeliest besides.

    Raises: ConfigError ``infer.sampling``.
    """

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    seed: int | None = None
    stops: tuple[str, ...] = ()
    logprobs: int | None = None

    def __post_init__(self) -> None:
        limits = {
            "max_tokens": (self.max_tokens >= 1, "至少 1"),
            "temperature": (0 <= self.temperature < math.inf, "0 或更大的数 (0 = 每次都选最可能的词元)"),
            "top_p": (0 < self.top_p <= 1, "大于 0, 不超过 1"),
            "top_k": (self.top_k >= 0, "0 (不限) 或正整数"),
            "repetition_penalty": (0.01 <= self.repetition_penalty <= 100, "0.01 到 100 (1 = 不惩罚)"),
            "frequency_penalty": (-2 <= self.frequency_penalty <= 2, "-2 到 2 (0 = 不惩罚)"),
            "presence_penalty": (-2 <= self.presence_penalty <= 2, "-2 到 2 (0 = 不惩罚)"),
            "stops": (all(self.stops), "不能有空字符串"),
            "logprobs": (self.logprobs is None or 0 <= self.logprobs <= MOST_LOGPROBS, f"0 到 {MOST_LOGPROBS}"),
        }
        for name, (is_good, wanted) in limits.items():
            if not is_good:
                raise ConfigError(
                    "infer.sampling",
                    f"{name} 不能是 {getattr(self, name)!r}, 要 {wanted}",
                    place=name,
                    hint="把它改到允许的范围里, 或者不写, 用默认值",
                )

    @property
    def is_greedy(self) -> bool:
        return self.temperature < COLD

    @property
    def counts_answer(self) -> bool:
        return self.frequency_penalty != 0 or self.presence_penalty != 0


class Sampler:
    """The parameters, the chance and the memory of one answer."""

    def __init__(self, params: SamplingParams, prompt: Iterable[int] = ()) -> None:
        self.params = params
        self._prompt = prompt
        self._random = None if params.is_greedy else random.Random(params.seed)
        self._seen_V: Tensor | None = None
        self._counts_V: Tensor | None = None

    def uniform(self) -> float:
        """The next number of this answer's chance, in [0, 1)."""
        return self._random.random() if self._random else 0.0

    @property
    def is_penalising(self) -> bool:
        return self.params.repetition_penalty != 1 or self.params.counts_answer

    def note(self, token: int) -> None:
        """One more token of the answer."""
        if self._seen_V is not None and token < len(self._seen_V):
            self._seen_V[token] = True
        if self._counts_V is not None and token < len(self._counts_V):
            self._counts_V[token] += 1

    def penalise(self, logits_V: Tensor) -> Tensor:
        """Logits with those of tokens that stood before made less likely.

        Source: CTRL, Keskar et al. 2019, section 4.1 (repetition); OpenAI's API reference (frequency, presence).
        """
        params = self.params
        if params.repetition_penalty != 1:
            if self._seen_V is None:
                self._seen_V = torch.zeros_like(logits_V, dtype=torch.bool)
                ids = [token for token in set(self._prompt) if token < len(logits_V)]
                self._seen_V[torch.tensor(ids, dtype=torch.long, device=logits_V.device)] = True
            penalty = params.repetition_penalty
            less_V = torch.where(logits_V > 0, logits_V / penalty, logits_V * penalty)
            logits_V = torch.where(self._seen_V, less_V, logits_V)
        if params.counts_answer:
            if self._counts_V is None:
                self._counts_V = torch.zeros_like(logits_V)
            there_V = (self._counts_V > 0).to(logits_V.dtype)
            logits_V = logits_V - params.frequency_penalty * self._counts_V - params.presence_penalty * there_V
        return logits_V


def next_tokens(logits_BV: Tensor, samplers: Sequence[Sampler]) -> list[int]:
    """The id that follows in each row, noted in its sampler; one wait for the device where all are greedy."""
    logits_BV = logits_BV.float()
    penalising = [row for row, sampler in enumerate(samplers) if sampler.is_penalising]
    if penalising:
        logits_BV = logits_BV.clone()
        for row in penalising:
            logits_BV[row] = samplers[row].penalise(logits_BV[row])
    drawn: dict[tuple[int, float], list[int]] = {}
    for row, sampler in enumerate(samplers):
        if not sampler.params.is_greedy:
            drawn.setdefault((sampler.params.top_k, sampler.params.top_p), []).append(row)
    is_all_drawn = sum(map(len, drawn.values())) == len(samplers)
    chosen = [0] * len(samplers) if is_all_drawn else [int(token) for token in logits_BV.argmax(1).tolist()]
    for (top_k, top_p), rows in drawn.items():
        ids = _draw(logits_BV[rows], [samplers[row] for row in rows], top_k, top_p)
        for row, token in zip(rows, ids, strict=True):
            chosen[row] = token
    for sampler, token in zip(samplers, chosen, strict=True):
        sampler.note(token)
    return chosen


def _draw(logits_BV: Tensor, samplers: Sequence[Sampler], top_k: int, top_p: float) -> list[int]:
    """One id per row by chance, for rows with equal filters."""
    temperatures = [sampler.params.temperature for sampler in samplers]
    logits_BV = logits_BV / torch.tensor(temperatures, device=logits_BV.device)[:, None]
    if top_k and top_k < logits_BV.shape[1]:
        return _draw_sorted(logits_BV, samplers, top_k, top_p)
    # A nucleus without sorting: draw from all, and draw again where the likelier ids alone reach top_p. What is kept
    # falls on each id of the nucleus in proportion to its probability, after 1 / top_p draws on average or fewer.
    probabilities_BV = logits_BV.softmax(1)
    sums_BV = probabilities_BV.cumsum(1)
    chosen_B = torch.tensor(_places(sums_BV, samplers), device=logits_BV.device)
    rows = list(range(len(samplers)))
    mass = _mass_before(logits_BV, probabilities_BV, chosen_B) if top_p < 1 else torch.zeros(len(rows))
    for count in range(1, TRIES + 1):
        rows = [row for row, before in zip(rows, mass.tolist(), strict=True) if before >= top_p]
        if not rows:
            break
        again = [samplers[row] for row in rows]
        if count < TRIES:
            chosen_B[rows] = torch.tensor(_places(sums_BV[rows], again), device=chosen_B.device)
            mass = _mass_before(logits_BV[rows], probabilities_BV[rows], chosen_B[rows])
        else:
            drawn = _draw_sorted(logits_BV[rows], again, logits_BV.shape[1], top_p)
            chosen_B[rows] = torch.tensor(drawn, device=chosen_B.device)
    return [int(token) for token in chosen_B.tolist()]


def _places(sums_BK: Tensor, samplers: Sequence[Sampler]) -> list[int]:
    """For each row the first place whose share of the sum reaches beyond its next number; never one that adds 0."""
    uniforms_B1 = torch.tensor([sampler.uniform() for sampler in samplers], device=sums_BK.device)[:, None]
    whole_B1 = sums_BK[:, -1:]
    # u * whole may round up to the whole itself, beyond the last place that adds something.
    wanted_B1 = torch.minimum(uniforms_B1 * whole_B1, torch.nextafter(whole_B1, torch.zeros_like(whole_B1)))
    return [int(place) for place in torch.searchsorted(sums_BK, wanted_B1, right=True)[:, 0].tolist()]


def _mass_before(logits_BV: Tensor, probabilities_BV: Tensor, chosen_B: Tensor) -> Tensor:
    """[B]: the probability of all ids that stand before the chosen one, the likeliest first, equal ones by number."""
    own_B1 = logits_BV.gather(1, chosen_B[:, None])
    earlier_BV = torch.arange(logits_BV.shape[1], device=chosen_B.device) < chosen_B[:, None]
    is_before_BV = (logits_BV > own_B1) | ((logits_BV == own_B1) & earlier_BV)
    return (probabilities_BV * is_before_BV).sum(1)


def _draw_sorted(logits_BV: Tensor, samplers: Sequence[Sampler], top_k: int, top_p: float) -> list[int]:
    probabilities_BK, ids_BK = candidates(logits_BV, top_k, top_p)
    places = _places(probabilities_BK.cumsum(1), samplers)
    return [int(ids_BK[row, place]) for row, place in enumerate(places)]


def candidates(logits_BV: Tensor, top_k: int, top_p: float) -> tuple[Tensor, Tensor]:
    """Shares [B, K] (falling; 0 for what is left out) and ids [B, K] of what may be drawn.

    First the ``top_k`` likeliest, then the smallest set of them that reaches ``top_p``; the likeliest always stays.
    Source: nucleus sampling, Holtzman et al. 2020, section 3.1.
    """
    if top_k < logits_BV.shape[1]:
        values_BK, ids_BK = logits_BV.topk(top_k)
    else:
        values_BK, ids_BK = logits_BV.sort(stable=True, dim=1, descending=True)
    shares_BK = values_BK.softmax(1)
    before_BK = shares_BK.cumsum(1) - shares_BK
    before_BK[:, 0] = 0
    return shares_BK.masked_fill(before_BK >= top_p, 0) if top_p < 1 else shares_BK, ids_BK


class LogProbs(NamedTuple):
    """Natural logarithms of the model's own probabilities (before temperature and penalties)."""

    chosen: float
    top: tuple[tuple[int, float], ...]


def log_probabilities(logits_BV: Tensor, chosen: Sequence[int], counts: Sequence[int | None]) -> list[LogProbs | None]:
    """For each row what it asks for: nothing (None), its chosen token (0), or the likeliest ``count`` besides."""
    found: list[LogProbs | None] = [None] * len(counts)
    rows = [row for row, count in enumerate(counts) if count is not None]
    if not rows:
        return found
    logs_BV = logits_BV[rows].float().log_softmax(1)
    most = max(counts[row] or 0 for row in rows)
    values_BK, ids_BK = logs_BV.topk(min(most, logs_BV.shape[1]))
    own = logs_BV.gather(1, torch.tensor([[chosen[row]] for row in rows], device=logs_BV.device))[:, 0].tolist()
    for row, value, ids, values in zip(rows, own, ids_BK.tolist(), values_BK.tolist(), strict=True):
        found[row] = LogProbs(value, tuple(zip(ids, values, strict=True))[: counts[row]])
    return found
