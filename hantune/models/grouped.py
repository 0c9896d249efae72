"""The documents of a packed row beside each other in groups of like length, so that a group is one batched product.

Lengths are rounded up to a multiple of ``STEP``. The added places repeat a document's last token: causal attention
shows them to nobody, and what they look at is dropped on the way back.

Shape letters: T tokens of the row, H heads, K key heads, E head width, P places (documents x heads x rounded lengths).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

import torch
from torch import Tensor

STEP = 8
"""Chats of 52 tokens in bf16 on two AVX512-BF16 cores: 8, 16 and 32 within a tenth; 1 is half as fast, 64 two thirds."""


@dataclass(frozen=True, kw_only=True)
class Grouped:
    """``query_rows``, ``key_rows``: the row of [T * H, E] or [T * K, E] that is read into each place, int64 [P].
    ``places``: where each row of [T * H, E] lies, int64 [T * H]. ``added``: the places that no token has.
    ``groups``: the places of a group and its length.
    """

    query_rows: Tensor
    key_rows: Tensor
    places: Tensor
    added: Tensor
    groups: tuple[tuple[slice, int], ...]

    def queries(self, x_THE: Tensor) -> Tensor:
        """Queries, or what else has their heads, place by place, shape [P, E]."""
        return x_THE.reshape(-1, x_THE.shape[-1]).index_select(0, self.query_rows)

    def keys(self, x_TKE: Tensor) -> Tensor:
        """Keys or values place by place, repeated for the queries that share them, shape [P, E]."""
        return x_TKE.reshape(-1, x_TKE.shape[-1]).index_select(0, self.key_rows)

    def gradients(self, grad_THE: Tensor) -> Tensor:
        """Like ``queries``, with nothing from places that no token has."""
        return self.queries(grad_THE).index_fill_(0, self.added, 0)

    def back(self, x_PE: Tensor, heads: int) -> Tensor:
        """The tokens' own rows again, shape [T, H, E]."""
        return x_PE.index_select(0, self.places).view(-1, heads, x_PE.shape[-1])


@lru_cache(maxsize=8)
def grouped(lengths: tuple[int, ...], heads: int, key_heads: int) -> Grouped:
    """The groups of documents of these lengths; all layers of a pass ask for the same."""
    starts = (0, *accumulate(lengths))
    members: dict[int, list[int]] = defaultdict(list)
    for document, length in enumerate(lengths):
        members[-(-length // STEP) * STEP].append(document)
    head_H = torch.arange(heads)[:, None]
    queries, keys, is_real, groups, end = [], [], [], [], 0
    for length, documents in members.items():
        first_D11 = torch.tensor([starts[document] for document in documents])[:, None, None]
        real_D11 = torch.tensor([lengths[document] for document in documents])[:, None, None]
        place_L = torch.arange(length)
        token_DHL = (first_D11 + torch.minimum(place_L, real_D11 - 1)).expand(-1, heads, -1)
        queries.append((token_DHL * heads + head_H).flatten())
        keys.append((token_DHL * key_heads + head_H * key_heads // heads).flatten())
        is_real.append((place_L < real_D11).expand(-1, heads, -1).flatten())
        groups.append((slice(end, end + token_DHL.numel()), length))
        end += token_DHL.numel()
    query_rows, real_P = torch.cat(queries), torch.cat(is_real)
    places = torch.empty(starts[-1] * heads, dtype=torch.int64)
    places[query_rows[real_P]] = real_P.nonzero().flatten()
    added = (~real_P).nonzero().flatten()
    return Grouped(
        query_rows=query_rows, key_rows=torch.cat(keys), places=places, added=added, groups=tuple(groups)
    )  # fmt: skip
