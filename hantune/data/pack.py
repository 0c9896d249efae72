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


def epoch_steps(lengths: np.ndarray, samples_per_step: int, *, seed: int, epoch: int) -> list[np.ndarray]:
    """The steps of one epoch, each an array of sample numbers; every sample stands in exactly one.

    Samples of like length share a step, steps come in random order. ``lengths``: tokens per sample, shape [N].
    """
    draw = np.random.Generator(np.random.PCG64([seed, epoch]))
    order = draw.permutation(len(lengths))
    window = samples_per_step * WINDOW_STEPS
    steps: list[np.ndarray] = []
    for start in range(0, len(order), window):
        members = order[start : start + window]
        by_length = members[np.argsort(lengths[members], kind="stable")]
        steps.extend(by_length[i : i + samples_per_step] for i in range(0, len(by_length), samples_per_step))
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
    batches: list[list[int]] = []
    current: list[int] = []
    used = 0
    for sample in sorted((int(s) for s in samples), key=lambda s: (-int(lengths[s]), s)):
        length = int(lengths[sample])
        grown = used + length if layout == "packed" else int(lengths[current[0]]) * (len(current) + 1) if current else 0
        if current and (len(current) == batch_size or (batch_tokens is not None and grown > batch_tokens)):
            batches.append(current)
            current, used = [], 0
        current.append(sample)
        used += length
    if current:
        batches.append(current)
    return batches


def useful_share(batches: Sequence[Sequence[int]], lengths: np.ndarray, layout: Layout) -> float:
    """Real tokens over computed tokens (1.0 = no padding)."""
    real = sum(int(lengths[list(batch)].sum()) for batch in batches)
    if layout == "packed":
        return 1.0
    computed = sum(int(lengths[list(batch)].max()) * len(batch) for batch in batches)
    return real / computed if computed else 1.0
