"""Logits to the next token. Pure functions; chance comes from a generator of its own, never from torch's global one.

Shape letters: V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hantune.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How an answer is drawn. ``temperature`` 0 is greedy; ``top_k`` 0, ``top_p`` 1, ``repetition_penalty`` 1 are off.

    ``seed`` None draws differently every time. ``stops`` end the answer in addition to the template's own.

    Raises: ConfigError ``infer.sampling``.
    """

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stops: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        limits = {
            "max_tokens": (self.max_tokens >= 1, "至少 1"),
            "temperature": (0 <= self.temperature < math.inf, "0 或更大的数 (0 = 每次都选最可能的词元)"),
            "top_p": (0 < self.top_p <= 1, "大于 0, 不超过 1"),
            "top_k": (self.top_k >= 0, "0 (不限) 或正整数"),
            "repetition_penalty": (0 < self.repetition_penalty < math.inf, "大于 0 (1 = 不惩罚)"),
            "stops": (all(self.stops), "不能有空字符串"),
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
        return self.temperature == 0

    def generator(self) -> torch.Generator | None:
        """A fresh source of chance for one answer; None when none is needed."""
        if self.is_greedy:
            return None
        generator = torch.Generator()
        if self.seed is None:
            generator.seed()
        else:
            generator.manual_seed(self.seed)
        return generator


def next_token(
    logits_V: Tensor, params: SamplingParams, generator: torch.Generator | None = None, seen: Sequence[int] = ()
) -> int:
    """The id that follows. ``seen``: ids of prompt and answer so far, for the repetition penalty.

    Drawing happens on the CPU in float32, so one seed gives one answer on every device.
    """
    logits_V = logits_V.float()
    if params.repetition_penalty != 1 and seen:
        logits_V = penalise_repetition(logits_V, seen, params.repetition_penalty)
    if params.is_greedy:
        return int(logits_V.argmax())
    logits_V = logits_V.cpu() / params.temperature
    logits_V = keep_top_p(keep_top_k(logits_V, params.top_k), params.top_p)
    return int(torch.multinomial(logits_V.softmax(0), 1, generator=generator))


def penalise_repetition(logits_V: Tensor, seen: Sequence[int], penalty: float) -> Tensor:
    """Logits with those of ``seen`` ids made less likely. Source: CTRL, Keskar et al. 2019, section 4.1."""
    ids = torch.tensor(sorted(set(seen)), device=logits_V.device)
    old = logits_V[ids]
    return logits_V.index_copy(0, ids, torch.where(old > 0, old / penalty, old * penalty))


def keep_top_k(logits_V: Tensor, k: int) -> Tensor:
    """Logits with all but the ``k`` highest at minus infinity (0 keeps all)."""
    if k == 0 or k >= len(logits_V):
        return logits_V
    kept = logits_V.topk(k).indices
    return torch.full_like(logits_V, -math.inf).index_copy(0, kept, logits_V[kept])


def keep_top_p(logits_V: Tensor, p: float) -> Tensor:
    """Logits of the smallest set of ids whose probability reaches ``p``, others at minus infinity.

    Source: nucleus sampling, Holtzman et al. 2020, section 3.1. The likeliest id is always kept.
    """
    if p >= 1:
        return logits_V
    ordered, order = logits_V.sort(descending=True, stable=True)
    probabilities = ordered.softmax(0)
    before = probabilities.cumsum(0) - probabilities
    dropped = order[before >= p]
    return logits_V.index_fill(0, dropped[dropped != order[0]], -math.inf)
