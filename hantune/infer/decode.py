"""One step of the model for all answers in progress; new ones join and finished ones leave between two steps.

Laws: cached decoding chooses what a full forward would choose; what else is in the batch changes no answer; neither
does a beginning that is copied from an earlier text, nor that a prompt is read in parts. All hold up to the rounding
of the device: in float32 two logits must be equal to about six digits before another batch can turn their order.
Shape letters: B answers, T positions, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hantune.infer.cache import RowCache
from hantune.infer.lane import Lane
from hantune.infer.prefix import Prefix, PrefixStore
from hantune.infer.sample import log_probabilities, next_tokens
from hantune.models.call import model_inputs, takes

MOST_READ = {"cpu": 256, "cuda": 2048}
"""Tokens of prompts that are read between two steps: what a newcomer costs those who are answered already.

More would hold the others up longer; fewer would cost the newcomer more, as each part looks back at all before it.
"""
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

    @property
    def is_idle(self) -> bool:
        """Whether no answer is in progress or waits for its prompt to be read."""
        return not self.lanes

    @abstractmethod
    def add(self, lanes: Sequence[Lane]) -> None:
        """Take in new answers; the steps that follow read their prompts."""

    @abstractmethod
    def step(self) -> None:
        """One more token for every answer in progress, and some of the prompts that wait; those that ended leave."""

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


@dataclass(eq=False)
class _Group:
    """Prompts that are read together, the lanes of equal ones in one list, and what is known of each prompt.

    One prompt too long for a single call is a group of its own; ``cache`` holds what was read of it, ``read`` tokens.
    """

    lanes: list[list[Lane]]
    prefixes: list[Prefix | None]
    cache: RowCache | None = None
    read: int = 0

    @property
    def new(self) -> int:
        """The most tokens that one of the prompts has yet to be read."""
        known = [prefix.length if prefix else 0 for prefix in self.prefixes]
        return max(len(lanes[0].prompt) - length for lanes, length in zip(self.lanes, known, strict=True))

    def drop(self, lane: Lane) -> None:
        for lanes in self.lanes:
            if lane in lanes:
                lanes.remove(lane)
        kept = [place for place, lanes in enumerate(self.lanes) if lanes]
        self.lanes = [self.lanes[place] for place in kept]
        self.prefixes = [self.prefixes[place] for place in kept]


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
        self._most_read = MOST_READ.get(bare.device.type, MOST_READ["cuda"])
        self._unread: deque[_Group] = deque()

    @property
    def is_idle(self) -> bool:
        return not self.lanes and not self._unread

    def add(self, lanes: Sequence[Lane]) -> None:
        self._unread += self._groups(lanes)

    def step(self) -> None:
        if self.lanes:
            self._decode()
        if self._unread:
            group = self._unread.popleft()
            if group.new <= self._most_read:
                self._read(group)
            elif not self._read_part(group):
                self._unread.append(group)  # behind the others: a long prompt does not hold up short ones
        self._leave()

    def drop(self, lane: Lane) -> None:
        super().drop(lane)
        for group in self._unread:
            group.drop(lane)
        self._unread = deque(group for group in self._unread if group.lanes)

    def _decode(self) -> None:
        cache, lanes = self._cache, self.lanes
        tokens_B1 = torch.tensor([[lane.last] for lane in lanes], device=self._bare.device)
        cache.advance()
        cache.window(range(len(lanes)), cache.end - 1)
        self._take(lanes, self._forward(tokens_B1, cache))

    def _groups(self, lanes: Sequence[Lane]) -> Iterator[_Group]:
        """Lanes to be read together, the longest first."""
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
            if group and (new[prompt] < most - SPARE or most * (len(group) + 1) > self._most_read):
                yield _Group([same[each] for each in group], [known[each] for each in group])
                group = []
            group.append(prompt)
        if group:
            yield _Group([same[each] for each in group], [known[each] for each in group])

    def _read(self, group: _Group) -> None:
        """Read prompts. All rows compute equally many columns: one that knows more of its prompt uses less of it."""
        new, cache = group.new, self._cache
        rows = cache.add_rows([len(lanes[0].prompt) for lanes in group.lanes])
        tokens = []
        for row, lanes, prefix in zip(rows, group.lanes, group.prefixes, strict=True):
            prompt = lanes[0].prompt
            used = max(len(prompt) - new, 0)
            if prefix is not None and used:
                cache.put(row, prefix.layers, used)
                for lane in lanes:
                    lane.cached_tokens = used
            tokens.append([self._pad_id] * (new - len(prompt)) + prompt[used:])
        cache.window(rows, cache.end - new)
        self._join(group, rows, self._forward(torch.tensor(tokens, device=self._bare.device), cache))

    def _read_part(self, group: _Group) -> bool:
        """Read on in a long prompt; True when that was its end and its lanes are with the others."""
        (lanes,), (prefix,) = group.lanes, group.prefixes
        prompt = lanes[0].prompt
        if group.cache is None:
            group.cache = RowCache(self._bare.config)
            group.cache.add_rows([len(prompt)])
            if prefix is not None:
                group.cache.put(0, prefix.layers, prefix.length)
                group.read = prefix.length
                for lane in lanes:
                    lane.cached_tokens = prefix.length
        part = prompt[group.read : group.read + self._most_read]
        group.cache.window(range(1), group.read)
        logits_1V = self._forward(torch.tensor([part], device=self._bare.device), group.cache)
        group.read += len(part)
        if group.read < len(prompt):
            return False
        rows = self._cache.add_rows([len(prompt)])
        self._cache.put(rows.start, group.cache.take(0), len(prompt))
        self._join(group, rows, logits_1V)
        return True

    def _join(self, group: _Group, rows: range, logits_BV: Tensor) -> None:
        """The lanes of a group whose prompts stand in ``rows`` take their first tokens."""
        joined = [lanes[0] for lanes in group.lanes]
        picks = list(range(len(rows)))
        for place, lanes in enumerate(group.lanes):
            for lane in lanes[1:]:
                self._cache.add_copy(rows[place])
                joined.append(lane)
                picks.append(place)
        self.lanes += joined
        self._take(joined, logits_BV if len(picks) == len(rows) else logits_BV[picks])

    def _remove(self, row: int) -> None:
        lane = self.lanes[row]
        if self._prefixes is not None:
            layers = self._cache.take(row)
            # The last token was chosen but not read (a stop token neither): the row ends before it.
            self._prefixes.keep(self._adapter, [*lane.prompt, *lane.ids][: layers[0][0].shape[1]], layers)
        self._cache.remove(row)
        super()._remove(row)

    def _forward(self, tokens_BT: Tensor, cache: RowCache) -> Tensor:
        """Logits of the last position, [B, V], of the rows in the cache's window."""
        mask_BC, positions_BT = cache.window_mask(tokens_BT.shape[1], tokens_BT.device)
        return self._logits(tokens_BT, mask_BC, positions_BT, cache)
