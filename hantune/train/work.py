"""How much a run computes, in one unit: a token through all layers, forward and back.

What else a micro-batch costs is counted in the same unit: rows of the head, pairs of tokens that look at each other.
Seconds per unit are then a property of the machine, measured on a few micro-batches (``train/timing``).

Source of the counts: Kaplan et al., Scaling laws (2020), section 2.1: two FLOPs for a number of a matrix and a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from torch import nn

from hantune.config.schema import RunConfig
from hantune.data.batch import IGNORED, Batch, evaluation_cuts
from hantune.data.pack import Layout
from hantune.data.store import TokenStore
from hantune.models.call import bare_model
from hantune.train.feed import Feed
from hantune.train.plan import Plan
from hantune.train.setup import Material

MOST_STEPS = 1000
"""Steps that are looked at one by one; a longer run is taken to be like these, spread evenly over it."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """``row``: a supervised row of the head, ``pair``: two tokens of one document, both in units of a token.

    ``flops``: of one unit, forward and backward; ``forward``: of the forward pass alone.
    """

    row: float
    pair: float
    flops: float
    forward: float

    def of(self, lengths: Any, learned: int, *, is_padded: bool) -> float:
        """The work of a micro-batch with documents of these lengths."""
        sizes = np.asarray(lengths, np.float64)
        if is_padded:
            sizes = np.full(len(sizes), sizes.max())
        return float(sizes.sum() + self.row * learned + self.pair * (sizes**2).sum())

    def of_batch(self, batch: Batch) -> float:
        """The same for a collated one."""
        learned = int((batch.labels_BT != IGNORED).sum())
        if batch.documents is not None:
            return self.of(batch.documents.lengths, learned, is_padded=False)
        return self.of([batch.tokens_BT.shape[1]] * batch.tokens_BT.shape[0], learned, is_padded=True)


@dataclass(frozen=True, kw_only=True)
class Work:
    """Of a whole run: ``units`` of training, ``batches`` (micro-batches), ``steps``, ``evaluations`` and the units of
    one; ``flops`` in all."""

    units: float
    batches: float
    steps: int
    evaluations: int
    evaluation_units: float
    evaluation_batches: int
    flops: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def rates_of(model: nn.Module, config: RunConfig) -> Rates:
    """What a row of the head and a pair of tokens cost in this model, beside a token through its layers."""
    bare = bare_model(model)
    head, embedding = bare.get_output_embeddings(), bare.get_input_embeddings()
    ends = {id(p) for end in (head, embedding) if end is not None for p in end.parameters()}
    body = sum(p.numel() for p in bare.parameters() if p.ndim >= 2 and id(p) not in ends)
    settings = bare.config.get_text_config()
    passes = (2 if config.adapter.kind == "lora" else 3) + config.train.activation_checkpointing
    return Rates(
        row=head.weight.numel() / body if head is not None else 0.0,
        pair=2 * settings.hidden_size * settings.num_hidden_layers / body,
        flops=2.0 * body * passes,
        forward=2.0 * body,
    )


def count_work(feed: Feed, plan: Plan, material: Material, rates: Rates) -> Work:
    """The work of a run, counted on up to ``MOST_STEPS`` of its steps."""
    sizes = [size for size, _ in micro_batches_of(feed, plan, material, rates)]
    scale = plan.total_steps / len(_looked_at(plan))
    evaluations = 1 + -(-plan.total_steps // plan.eval_every)
    held_out = _sizes(evaluation_cuts(material.val.lengths), material.val, "sorted", rates)
    units = sum(sizes) * scale
    return Work(
        units=units,
        batches=len(sizes) * scale,
        steps=plan.total_steps,
        evaluations=evaluations,
        evaluation_units=sum(held_out),
        evaluation_batches=len(held_out),
        flops=rates.flops * units + rates.forward * evaluations * sum(held_out),
    )


def micro_batches_of(feed: Feed, plan: Plan, material: Material, rates: Rates) -> list[tuple[float, list[int]]]:
    """Work and sample numbers of the micro-batches of the steps that are looked at."""
    cuts = [cut for step in _looked_at(plan) for cut in feed.cuts(step)]
    return list(zip(_sizes(cuts, material.train, plan.layout, rates), cuts, strict=True))


def _looked_at(plan: Plan) -> list[int]:
    steps = np.linspace(0, plan.total_steps - 1, min(plan.total_steps, MOST_STEPS))
    return [int(step) for step in np.unique(steps.astype(int))]


def _sizes(cuts: Sequence[list[int]], samples: TokenStore, layout: Layout, rates: Rates) -> list[float]:
    """The work of each micro-batch."""
    lengths, learned = samples.lengths, samples.learned
    is_padded = layout == "sorted"
    return [rates.of(lengths[cut], int(learned[cut].sum()), is_padded=is_padded) for cut in cuts]
