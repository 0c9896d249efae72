"""Held-out loss. Only sums are kept, never logits, so evaluation fits wherever training fits (trap D3)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from hantune.data.batch import Batch
from hantune.models.call import bare_model, evaluating
from hantune.models.loss import supervised_nats


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Sums over all supervised tokens: nats, tokens, and the characters their text has."""

    nats: float
    tokens: int
    characters: int

    @property
    def loss(self) -> float:
        """Nats per supervised token; NaN without any."""
        return self.nats / self.tokens if self.tokens else math.nan

    @property
    def perplexity(self) -> float:
        """``exp(loss)``, infinite where that overflows."""
        return math.exp(self.loss) if not self.loss > 700 else math.inf

    @property
    def bits_per_character(self) -> float:
        """Bits per character of learned text: comparable between models with different tokenizers."""
        return self.nats / math.log(2) / self.characters if self.characters else math.nan

    def as_dict(self) -> dict[str, float | int]:
        """What evaluation.json and eval events hold."""
        return {
            "loss": self.loss,
            "perplexity": self.perplexity,
            "bits_per_character": self.bits_per_character,
            "tokens": self.tokens,
            "characters": self.characters,
        }


def held_out(model: nn.Module, batches: Iterable[Batch]) -> HeldOut:
    """The loss of ``model`` on ``batches``, dropout off; the model's modes and the random numbers stay as they were."""
    device = bare_model(model).device
    nats, tokens, characters = 0.0, 0, 0
    with evaluating(model), torch.no_grad():
        for batch in batches:
            batch_nats, count = supervised_nats(model, batch.to(device))
            nats += batch_nats.item()
            tokens += count
            characters += batch.num_characters
    return HeldOut(nats=nats, tokens=tokens, characters=characters)
