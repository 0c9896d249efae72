"""One step of the model for all answers in progress; new ones join and finished ones leave between two steps.

Laws: cached decoding chooses what a full forward would choose; what else is in the batch changes no answer; neither
does a beginning that is copied from an earlier text. All three hold up to the rounding of the device: in float32 two
logits must be equal to about six digits before another batch can turn their order.
Shape letters: B answers, T positions, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from hantune.infer.cache import RowCache
from hantune.infer.lane import Lane
from hantune.infer.prefix import Prefix, PrefixStore
from hantune.infer.sample import log_probabilities, next_tokens
from hantune.models.call import model_inputs, takes

MOST_PREFILLED = 4096
"""Tokens of prompts that are read in one forward call, so that a crowd of newcomers does not need all the memory."""
SPARE = 32
"""Prompts are read together when padding adds no more tokens than this: a call of its own costs about as many."""


class Decoder(ABC):
    """Answers in progress of one model.

    ``num_pieces``: ids from here on are never chosen (rows of the embedding without a piece).
    """

    def __init__(self, bare: Any, *, pad_id: int, num_pieces: int) -> None:
        self.lanes: list[Lane] = []
        self._bare = bare
        self._pad_id = pad_id
        self._num_pieces = num_pieces
        # An index, not the number 1: a view of the last position would make torch copy the whole head for every row.
        last = torch.tensor([-1], device=bare.device)
        self._extra = {"logits_to_keep": last} if takes(bare, "logits_to_keep") else {}

    @abstractmethod
    def add(self, lanes: Sequence[Lane]) -> None:
        """Read the prompts of new answers and choose their first tokens; some may have ended by that."""

    @abstractmethod
    def step(self) -> None:
        """One more token for every answer in progress; those that ended leave."""

    def drop(self, lane: Lane) -> None:
        """Let an answer go before its end; nothing if it is not here."""
        if lane in self.lanes:
            self._remove(self.lanes.index(lane))

    def _take(self, lanes: Sequence[Lane], logits_BV: Tensor) -> None:
        """Choose the next token of every lane."""
        chosen = next_tokens(logits_BV, [lane.sampler for lane in lanes])
        scores = log_probabilities(logits_BV, chosen, [lane.params.logprobs for lane in lanes])
        for lane, token, score in zip(lanes, chosen, scores, strict=True):
            lane.take(token, score)

    def _leave(self) -> None:
        """Let go of the answers that ended, the last rows first: they are what moves into the gaps."""
        for row in range(len(self.lanes) - 1, -1, -1):
            if self.lanes[row].finish_reason is not None:
                self._remove(row)

    def _remove(self, row: int) -> None:
        """Free a row; the last one takes its place."""
        self.lanes[row] = self.lanes[-1]
        self.lanes.pop()

    @torch.no_grad()
    def _logits(self, tokens_BT: Tensor, mask_BC: Tensor | None, positions_BT: Tensor | None, cache: Any) -> Tensor:
        """Logits of the last position, [B, V]."""
        inputs = model_inputs(
            self._bare,
            tokens_BT,
            mask_BT=mask_BC,
            positions_BT=positions_BT,
            use_cache=cache is not None,
            cache=cache,
        )
        logits_BTV: Tensor = self._bare(**inputs, **self._extra).logits
        return logits_BTV[:, -1, : self._num_pieces]


class Rereader(Decoder):
    """For models whose memory is not keys and values (Mamba): every step reads all from the start. Slow, and right."""

    def add(self, lanes: Sequence[Lane]) -> None:
        self.lanes += lanes
        self._take(lanes, self._read(lanes))
        self._leave()

    def step(self) -> None:
        self._take(self.lanes, self._read(self.lanes))
        self._leave()

    def _read(self, lanes: Sequence[Lane]) -> Tensor:
        texts = [[*lane.prompt, *lane.ids] for lane in lanes]
        width = max(map(len, texts))
        device = self._bare.device
        tokens_BT = torch.tensor([[self._pad_id] * (width - len(ids)) + ids for ids in texts], device=device)
        mask_BT = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in texts], device=device)
        return self._logits(tokens_BT, mask_BT, (mask_BT.cumsum(1) - 1).clamp(min=0), None)


class CachedDecoder(Decoder):
    """Answers in progress whose keys and values are kept.

    ``prefixes``: what is known of earlier texts under ``adapter``, and where the texts of this decoder go.
    """

    def __init__(
        self,
        bare: Any,
        *,
        pad_id: int,
        num_pieces: int,
        prefixes: PrefixStore | None = None,
        adapter: str | None = None,
    ) -> None:
        super().__init__(bare, pad_id=pad_id, num_pieces=num_pieces)
        self._prefixes = prefixes
        self._adapter = adapter
        self._cache = RowCache(bare.config)

    def add(self, lanes: Sequence[Lane]) -> None:
        for group in self._groups(lanes):
            self._prefill(*group)
        self._leave()

    def step(self) -> None:
        cache, lanes = self._cache, self.lanes
        tokens_B1 = torch.tensor([[lane.last] for lane in lanes], device=self._bare.device)
        cache.advance()
        cache.window(range(len(lanes)), cache.end - 1)
        self._take(lanes, self._forward(tokens_B1))
        self._leave()

    def _groups(self, lanes: Sequence[Lane]) -> Iterator[tuple[list[list[Lane]], list[Prefix | None]]]:
        """Lanes to be read together, equal prompts as one, and what is known of each prompt."""
        same: dict[tuple[int, ...], list[Lane]] = {}
        for lane in lanes:
            same.setdefault(tuple(lane.prompt), []).append(lane)
        known = {
            prompt: self._prefixes.find(self._adapter, prompt) if self._prefixes is not None else None
            for prompt in same
        }
        new = {prompt: len(prompt) - (prefix.length if prefix else 0) for prompt, prefix in known.items()}
        group: list[tuple[int, ...]] = []
        for prompt in sorted(same, key=lambda prompt: -new[prompt]):
            most = new[group[0]] if group else 0
            if group and (new[prompt] < most - SPARE or most * (len(group) + 1) > MOST_PREFILLED):
                yield [same[each] for each in group], [known[each] for each in group]
                group = []
            group.append(prompt)
        if group:
            yield [same[each] for each in group], [known[each] for each in group]

    def _prefill(self, group: list[list[Lane]], prefixes: list[Prefix | None]) -> None:
        """Read prompts. All rows compute equally many columns: one that knows more of its prompt uses less of it."""
        prompts = [lanes[0].prompt for lanes in group]
        new = max(
            len(prompt) - (prefix.length if prefix else 0) for prompt, prefix in zip(prompts, prefixes, strict=True)
        )
        cache = self._cache
        rows = cache.add_rows([len(prompt) for prompt in prompts])
        tokens = []
        for row, lanes, prefix in zip(rows, group, prefixes, strict=True):
            prompt = lanes[0].prompt
            used = max(len(prompt) - new, 0)
            if prefix is not None and used:
                cache.put(row, prefix.layers, used)
                for lane in lanes:
                    lane.cached_tokens = used
            tokens.append([self._pad_id] * (new - len(prompt)) + prompt[used:])
        cache.window(rows, cache.end - new)
        logits_BV = self._forward(torch.tensor(tokens, device=self._bare.device))
        joined = [lanes[0] for lanes in group]
        picks = list(range(len(group)))
        for place, lanes in enumerate(group):
            for lane in lanes[1:]:
                cache.add_copy(rows[place])
                joined.append(lane)
                picks.append(place)
        self.lanes += joined
        self._take(joined, logits_BV if len(picks) == len(group) else logits_BV[picks])

    def _remove(self, row: int) -> None:
        lane = self.lanes[row]
        if self._prefixes is not None:
            layers = self._cache.take(row)
            # The last token was chosen but not read (a stop token neither): the row ends before it.
            self._prefixes.keep(self._adapter, [*lane.prompt, *lane.ids][: layers[0][0].shape[1]], layers)
        self._cache.remove(row)
        super()._remove(row)

    def _forward(self, tokens_BT: Tensor) -> Tensor:
        """Logits of the last position, [B, V], of the rows in the cache's window."""
        mask_BC, positions_BT = self._cache.window_mask(tokens_BT.shape[1], tokens_BT.device)
        return self._logits(tokens_BT, mask_BC, positions_BT, self._cache)
