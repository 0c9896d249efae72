"""How much a run computes: FLOP of its micro-batches, padding counted too, because it takes time all the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from torch import nn

from hantune.data.batch import IGNORED, Batch, evaluation_cuts
from hantune.data.pack import Layout
from hantune.data.store import TokenStore
from hantune.train.feed import Feed
from hantune.train.floor import Work, work_of
from hantune.train.plan import Plan
from hantune.train.setup import Material

Cut = tuple[int, ...]
"""The numbers of the samples in a micro-batch."""
MOST_STEPS = 1000
"""Steps that are looked at one by one; a longer run is taken to be like these, spread evenly over it."""


@dataclass(frozen=True, kw_only=True)
class Volume:
    """Of a run: FLOP, real tokens and micro-batches of training, and of one evaluation (counted as if it were trained).

    ``sizes``: FLOP and samples of the micro-batches that were looked at, the smallest first; ``evaluation_sizes``: of
    the batches of an evaluation.
    """

    flop: float
    tokens: float
    batches: float
    evaluation_flop: float
    evaluation_batches: int
    sizes: tuple[tuple[float, Cut], ...]
    evaluation_sizes: tuple[tuple[float, Cut], ...]

    def as_dict(self) -> dict[str, Any]:
        """For ``plan.json``."""
        return {name: value for name, value in asdict(self).items() if not name.endswith("sizes")}


def volume_of(feed: Feed, plan: Plan, material: Material, work: Work) -> Volume:
    """How much the run of this plan computes."""
    looked_at = np.unique(np.linspace(0, plan.total_steps - 1, min(plan.total_steps, MOST_STEPS)).astype(int))
    cuts = [cut for step in looked_at for cut in feed.cuts(int(step))]
    sizes = _sizes(cuts, material.train, plan.layout, work)
    held_out = evaluation_cuts(material.val.lengths)
    evaluation = _sizes(held_out, material.val, "sorted", work)
    scale = plan.total_steps / len(looked_at)
    return Volume(
        flop=sum(sizes) * scale,
        tokens=float(material.train.lengths[np.concatenate(cuts)].sum()) * scale,
        batches=len(sizes) * scale,
        evaluation_flop=sum(evaluation),
        evaluation_batches=len(evaluation),
        sizes=_by_size(sizes, cuts),
        evaluation_sizes=_by_size(evaluation, held_out),
    )


def _by_size(sizes: Sequence[float], cuts: Sequence[Sequence[int]]) -> tuple[tuple[float, Cut], ...]:
    return tuple(sorted((size, tuple(cut)) for size, cut in zip(sizes, cuts, strict=True)))


def work_or_guess(model: nn.Module) -> Work:
    """What a token costs in this model; for one whose matrices are not all known, what its parameters suggest."""
    known = work_of(model)
    if known is not None:
        return known
    token = sum((4.0 + 2.0 * p.requires_grad) * p.numel() for p in model.parameters())
    return Work(token=token, label=0.0, pair=0.0, shape=(1024, 1024))


def flop_of(batch: Batch, work: Work) -> float:
    """FLOP of a collated micro-batch."""
    supervised = int((batch.labels_BT != IGNORED).sum())
    if batch.documents is not None:
        return _flop(np.asarray(batch.documents.lengths), supervised, work)
    rows, columns = batch.tokens_BT.shape
    return _flop(np.full(rows, columns), supervised, work)


def _sizes(cuts: Sequence[Sequence[int]], samples: TokenStore, layout: Layout, work: Work) -> list[float]:
    """FLOP of each micro-batch."""
    lengths, learned = samples.lengths, samples.learned
    sizes = []
    for cut in cuts:
        its = lengths[list(cut)]
        if layout == "sorted":
            its = np.full(len(its), its.max())
        sizes.append(_flop(its, int(learned[list(cut)].sum()), work))
    return sizes


def _flop(lengths: np.ndarray, supervised: int, work: Work) -> float:
    squares = int((lengths.astype(np.int64) ** 2).sum())
    return work.of(tokens=int(lengths.sum()), supervised=supervised, squares=squares)
