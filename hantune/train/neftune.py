"""NEFTune: noise on the embeddings of what is trained (Jain et al. 2023, arXiv:2310.05914).

Each sample gets uniform noise of size ``alpha / sqrt(L D)`` by its own length L and the model's width D. The noise is a
pure function of seed, step and sample, so it does not hang on the micro-batches that a step is cut into, and a run that
goes on draws what the uninterrupted one would have drawn. Evaluation sees none.

Shape letters: B rows, T positions, D width.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Iterator
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from hantune.data.batch import Batch
from hantune.models.call import bare_model


@contextlib.contextmanager
def noisy_embeddings(model: nn.Module, batch: Batch, *, alpha: float, seed: int, step: int) -> Iterator[None]:
    """Inside, a training pass over ``batch`` has noise on its embeddings; none with ``alpha`` 0."""
    if not alpha:
        yield
        return
    spans = list(sample_spans(batch))
    seeds = [_seed_of(seed, step, sample) for sample in batch.indices or range(len(spans))]

    def add_noise(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        if not module.training:  # a probe of the model at rest
            return output
        noise_BTD = torch.zeros(output.shape, device=output.device)
        generator = torch.Generator(output.device)
        for (row, start, length), its_seed in zip(spans, seeds, strict=True):
            size = alpha / math.sqrt(length * output.shape[-1])
            noise_BTD[row, start : start + length].uniform_(-size, size, generator=generator.manual_seed(its_seed))
        return output + noise_BTD.to(output.dtype)

    handle = bare_model(model).get_input_embeddings().register_forward_hook(add_noise)
    try:
        yield
    finally:
        handle.remove()


def sample_spans(batch: Batch) -> Iterator[tuple[int, int, int]]:
    """(row, first position, length) of each sample of a batch, in the order of its ``indices``."""
    if batch.documents is not None:
        lengths = batch.documents.lengths
        yield from ((0, end - length, length) for end, length in zip(accumulate(lengths), lengths, strict=True))
    elif batch.mask_BT is not None:
        yield from ((row, 0, length) for row, length in enumerate(batch.mask_BT.sum(1).tolist()))


def _seed_of(seed: int, step: int, sample: int) -> int:
    digest = hashlib.blake2b(f"{seed}/{step}/{sample}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")
