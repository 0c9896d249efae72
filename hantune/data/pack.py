"""Which samples make which step, and how a step is cut into micro-batches. Pure functions of lengths, seed and epoch.

    all samples ─ shuffle ─> windows ─ sort by length ─> steps ─ shuffle ─> steps of the epoch
    step ─ sort by length, cut at batch_size and batch_tokens ─> micro-batches

A step is the same set of samples however it is cut, so 1 x 8 and 8 x 1 train the same; and nothing about the order is
kept in a checkpoint but the number of the step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

Layout = Literal["sorted", "packed"]

WINDOW_STEPS = 64
"""Steps whose samples are sorted together: enough for little padding, few enough to stay shuffled."""


def num_steps(num_samples: int, samples_per_step: int) -> int:
    """Steps of one epoch; the last may be smaller."""
    return -(-num_samples // samples_per_step)


def epoch_steps(
    lengths: np.ndarray, samples_per_step: int, *, seed: int, epoch: int, by_length: bool = True
) -> list[np.ndarray]:
    """The steps of one epoch, each an array of sample numbers; every sample stands in exactly one.

    ``by_length``: samples of like length share a step, for rows that must be padded, and steps come in random order;
    else a step is a random set. ``lengths``: tokens per sample, shape [N].
    """
    draw = np.random.Generator(np.random.PCG64([seed, epoch]))
    order = draw.permutation(len(lengths))
    window = samples_per_step * (WINDOW_STEPS if by_length else 1)
    steps: list[np.ndarray] = []
    for start in range(0, len(order), window):
        members = order[start : start + window]
        ranked = members[np.argsort(lengths[members], kind="stable")]
        steps.extend(ranked[i : i + samples_per_step] for i in range(0, len(ranked), samples_per_step))
    return [steps[i] for i in draw.permutation(len(steps))]


def micro_batches(
    samples: Sequence[int] | np.ndarray,
    lengths: np.ndarray,
    *,
    batch_size: int,
    batch_tokens: int | None,
    layout: Layout,
) -> list[list[int]]:
    """Cut samples into micro-batches of at most ``batch_size`` samples and ``batch_tokens`` tokens.

    ``sorted`` counts padding (rows x longest row), ``packed`` counts the sum of lengths. A sample that is longer than
    the budget stands alone: it is trained, not dropped.
    """
    order = sorted((int(s) for s in samples), key=lambda s: (-int(lengths[s]), s))
    if layout == "packed":
        return _even_rows(order, lengths, batch_size, batch_tokens)
    batches: list[list[int]] = []
    current: list[int] = []
    for sample in order:
        grown = int(lengths[current[0]]) * (len(current) + 1) if current else 0
        if current and (len(current) == batch_size or (batch_tokens is not None and grown > batch_tokens)):
            batches.append(current)
            current = []
        current.append(sample)
    if current:
        batches.append(current)
    return batches


def _even_rows(order: list[int], lengths: np.ndarray, batch_size: int, batch_tokens: int | None) -> list[list[int]]:
    """As few rows as the budgets allow, and as even as neighbours allow: a short last one would cost the peak memory
    of a full one before it. The longest stand first, so an even share of the tokens is at most one of the samples."""
    ends = np.concatenate([[0], np.cumsum(lengths[order], dtype=np.int64)])
    budget = int(ends[-1]) if batch_tokens is None else batch_tokens
    rows, start = [], 0
    while start < len(order):
        left = int(ends[-1] - ends[start])
        count = max(-(-left // budget), -(-(len(order) - start) // batch_size))
        even = int(np.searchsorted(ends, ends[start] + -(-left // count)))
        even = max(even, len(order) - (count - 1) * batch_size)
        most = int(np.searchsorted(ends, ends[start] + budget, side="right")) - 1
        stop = max(start + 1, min(even, most))
        rows.append(order[start:stop])
        start = stop
    return rows


def largest_batch(
    lengths: np.ndarray, *, batch_size: int, batch_tokens: int | None, layout: Layout
) -> list[int]:
    """Samples of a micro-batch that is as full as any that ``micro_batches`` can cut from these samples.

    Law, for ``sorted``: none has more rows x longest row. Among equally full ones it is that of the longest samples.
    """
    order = np.argsort(-lengths, kind="stable")
    if layout == "packed":
        return _fullest_row(order, lengths, batch_size, batch_tokens)
    sizes = lengths[order].astype(np.int64)
    rows = np.minimum(batch_size, np.arange(len(order), 0, -1))
    if batch_tokens is not None:
        rows = np.minimum(rows, np.maximum(1, batch_tokens // sizes))
    start = int(np.argmax(rows * sizes))
    return [int(sample) for sample in order[start : start + rows[start]]]


def _fullest_row(order: np.ndarray, lengths: np.ndarray, batch_size: int, batch_tokens: int | None) -> list[int]:
    """The fuller of: the longest sample and the longest that still fit beside it; neighbours in length."""
    ends = np.concatenate([[0], np.cumsum(lengths[order], dtype=np.int64)])
    budget = int(ends[-1]) if batch_tokens is None else batch_tokens
    row, used = [int(order[0])], int(lengths[order[0]])
    for sample in order[1:].tolist():
        if len(row) == batch_size or used >= budget:
            break
        if used + lengths[sample] <= budget:
            row.append(sample)
            used += int(lengths[sample])
    starts = np.arange(len(order))
    stops = np.minimum(np.searchsorted(ends, ends[:-1] + budget, side="right") - 1, starts + batch_size)
    sums = ends[np.maximum(stops, starts + 1)] - ends[:-1]
    best = int(np.argmax(sums))
    return row if used >= sums[best] else order[best : stops[best]].tolist()


def useful_share(batches: Sequence[Sequence[int]], lengths: np.ndarray, layout: Layout) -> float:
    """Real tokens over computed tokens (1.0 = no padding)."""
    real = sum(int(lengths[list(batch)].sum()) for batch in batches)
    if layout == "packed":
        return 1.0
    computed = sum(int(lengths[list(batch)].max()) * len(batch) for batch in batches)
    return real / computed if computed else 1.0
