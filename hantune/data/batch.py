"""Examples become tensors. The only file of ``data/`` with torch.

Shape letters: B rows, T positions. ``labels_BT[b, t]`` is the target of position t (the next token), or IGNORED.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from hantune.data.pack import Layout, micro_batches
from hantune.data.types import Example

IGNORED = -100
"""The label of a position that is not learned (torch's own ``ignore_index``)."""


class Samples(Protocol):
    """What a token store offers here."""

    @property
    def lengths(self) -> np.ndarray: ...
    @property
    def characters(self) -> np.ndarray: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Example: ...


@dataclass(frozen=True, kw_only=True)
class Documents:
    """What lies one after another in a packed row. ``offsets``: where each starts and the last ends, int32 [N + 1]."""

    lengths: tuple[int, ...]
    offsets: Tensor

    @classmethod
    def of(cls, lengths: Sequence[int]) -> Documents:
        """Documents of these lengths."""
        return cls(lengths=tuple(lengths), offsets=torch.tensor([0, *accumulate(lengths)], dtype=torch.int32))

    @property
    def longest(self) -> int:
        """Tokens of the longest one."""
        return max(self.lengths)

    def to(self, device: torch.device | str) -> Documents:
        """The same on another device."""
        return replace(self, offsets=self.offsets.to(device, non_blocking=True))


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One micro-batch.

    Padded (``sorted``): ``mask_BT`` is 1 on real tokens. Packed: one row, ``mask_BT`` None, ``positions_BT`` starts at
    0 with every one of ``documents``.
    """

    tokens_BT: Tensor
    labels_BT: Tensor
    mask_BT: Tensor | None
    positions_BT: Tensor | None
    documents: Documents | None = None
    num_tokens: int
    num_supervised: int
    num_characters: int = 0
    indices: tuple[int, ...] = ()

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        return replace(
            self,
            tokens_BT=self.tokens_BT.to(device),
            labels_BT=self.labels_BT.to(device),
            mask_BT=None if self.mask_BT is None else self.mask_BT.to(device),
            positions_BT=None if self.positions_BT is None else self.positions_BT.to(device),
            documents=None if self.documents is None else self.documents.to(device),
        )


def shifted_labels(example: Example) -> list[int]:
    """Targets of one example: position t learns token t+1 where that token's mask is 1. Length = len(ids)."""
    nexts = zip(example.ids[1:], example.mask[1:], strict=True)
    return [token if learn else IGNORED for token, learn in nexts] + [IGNORED]


def collate(examples: Sequence[Example], *, layout: Layout, pad_id: int) -> Batch:
    """Examples as one padded or one packed batch; padding carries no label whatever its id is."""
    labels = [shifted_labels(example) for example in examples]
    lengths = [len(example.ids) for example in examples]
    num_supervised = sum(label != IGNORED for row in labels for label in row)
    if layout == "packed":
        return Batch(
            tokens_BT=torch.tensor([[token for example in examples for token in example.ids]]),
            labels_BT=torch.tensor([[label for row in labels for label in row]]),
            mask_BT=None,
            positions_BT=torch.tensor([[position for length in lengths for position in range(length)]]),
            documents=Documents.of(lengths),
            num_tokens=sum(lengths),
            num_supervised=num_supervised,
        )
    width = max(lengths)
    return Batch(
        tokens_BT=torch.tensor([list(e.ids) + [pad_id] * (width - len(e.ids)) for e in examples]),
        labels_BT=torch.tensor([row + [IGNORED] * (width - len(row)) for row in labels]),
        mask_BT=torch.tensor([[1] * length + [0] * (width - length) for length in lengths]),
        positions_BT=None,
        num_tokens=sum(lengths),
        num_supervised=num_supervised,
    )


def collate_samples(samples: Samples, indices: Sequence[int], *, layout: Layout, pad_id: int) -> Batch:
    """The batch of these sample numbers, with the characters their learned text has."""
    batch = collate([samples[index] for index in indices], layout=layout, pad_id=pad_id)
    return replace(
        batch, indices=tuple(indices), num_characters=int(sum(int(samples.characters[index]) for index in indices))
    )


def evaluation_batches(
    samples: Samples,
    *,
    pad_id: int,
    layout: Layout = "sorted",
    batch_size: int = 16,
    batch_tokens: int | None = 4096,
) -> Iterator[Batch]:
    """Every sample once, longest first: what the held-out loss is taken over."""
    for indices in evaluation_cuts(samples.lengths, layout=layout, batch_size=batch_size, batch_tokens=batch_tokens):
        yield collate_samples(samples, indices, layout=layout, pad_id=pad_id)


def evaluation_cuts(
    lengths: np.ndarray, *, layout: Layout = "sorted", batch_size: int = 16, batch_tokens: int | None = 4096
) -> list[list[int]]:
    """The numbers of the samples in each of ``evaluation_batches``."""
    everything = range(len(lengths))
    return micro_batches(everything, lengths, batch_size=batch_size, batch_tokens=batch_tokens, layout=layout)
