"""Answers that repeat what was learned word for word, and the training row they repeat.

No index is kept: the learned text lies memory-mapped as tokens, and the answers are few. So all pairs of neighbouring
tokens of the answers go into one small table of hashes, and one pass over the learned tokens finds the stretches whose
every pair is in it; the few that are long enough are compared byte by byte. A pass takes some 20 nanoseconds a token:
nothing beside the training of that token (50 microseconds on the fastest card for a 7B model).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from hantune.data.store import TokenStore
    from hantune.data.tokens import Encoder

LONG_BYTES = 60
"""So many bytes in a row are no chance: 20 Han characters, or about ten English words. Answers that people wrote share
such a stretch with other people's in under 1 % of all cases (docs/decisions.md)."""
WHOLE_BYTES = 24
"""An answer that is a whole learned reply counts from here on: 8 Han characters. Everybody says 好的."""
TABLE_BITS = 20


@dataclass(frozen=True, kw_only=True)
class Repeated:
    """``text`` of an answer stands in the training row ``source`` (``file:line``) word for word."""

    text: str
    source: str


@dataclass(frozen=True)
class _Answer:
    ids: np.ndarray[Any, Any]
    text: bytes

    def same(self, learned: bytes, is_whole: bool) -> bytes:
        """What the answer and a stretch of learned text have in common, if it is enough; else nothing."""
        if is_whole and learned.strip() == self.text:
            return self.text
        for start in range(len(learned) - LONG_BYTES + 1):
            end = start + LONG_BYTES
            if learned[start:end] in self.text:
                while end < len(learned) and learned[start : end + 1] in self.text:
                    end += 1
                return learned[start:end]
        return b""


class LearnedText:
    """What a run learns, to be looked through."""

    def __init__(self, samples: TokenStore, encoder: Encoder) -> None:
        self._samples = samples
        silent = frozenset(encoder.control_ids)
        self._pieces = [b"" if token in silent else encoder.bytes_of[token] for token in range(encoder.vocab_size)]
        self._sizes = np.array([len(piece) for piece in self._pieces], dtype=np.int32)

    def repeated(self, answers: Sequence[Sequence[int]]) -> list[Repeated | None]:
        """For each answer (its ids) the first training row that it repeats, or None."""
        found: list[Repeated | None] = [None] * len(answers)
        texts = [self._text(ids).strip() for ids in answers]
        open_answers = {
            number: _Answer(np.array(ids), text)
            for number, (ids, text) in enumerate(zip(answers, texts, strict=True))
            if len(text) >= WHOLE_BYTES and len(ids) > 1
        }
        for first, offsets, ids, mask in self._samples.blocks():
            if not open_answers:
                break
            for start, end, is_whole in self._stretches(open_answers.values(), offsets, ids, mask):
                learned = self._text(ids[start:end])
                for number, answer in list(open_answers.items()):
                    if same := answer.same(learned, is_whole):
                        row = first + int(np.searchsorted(offsets, start, side="right")) - 1
                        text = same.decode("utf-8", "ignore").strip()
                        found[number] = Repeated(text=text, source=self._samples[row].source)
                        del open_answers[number]
        return found

    def _text(self, ids: Any) -> bytes:
        return b"".join(self._pieces[token] for token in ids)

    def _stretches(self, answers: Any, offsets: Any, ids: Any, mask: Any) -> Iterator[tuple[int, int, bool]]:
        """(start, end, whether it is a whole reply) of learned tokens whose every pair stands in an answer.

        Only those long enough to count; the table may hit by chance.
        """
        table = np.zeros(1 << TABLE_BITS, dtype=bool)
        for answer in answers:
            table[_hashes(answer.ids)] = True
        spoken = np.concatenate([[False], (mask == 1) & (self._sizes[ids] > 0), [False]])
        is_first = np.zeros(len(ids) + 1, dtype=bool)
        is_first[offsets] = True
        hit = np.concatenate([[False], spoken[1:-2] & spoken[2:-1] & table[_hashes(ids)] & ~is_first[1:-1], [False]])
        starts, ends = np.flatnonzero(~hit[:-1] & hit[1:]), np.flatnonzero(hit[:-1] & ~hit[1:]) + 1
        sums = np.concatenate([[0], np.cumsum(self._sizes[ids], dtype=np.int64)])
        sizes = sums[ends] - sums[starts]
        # spoken[i] is the token before token i: a reply begins where that is silent or another example's.
        is_whole = (~spoken[starts] | is_first[starts]) & (~spoken[ends + 1] | is_first[ends])
        kept = (sizes >= LONG_BYTES) | (is_whole & (sizes >= WHOLE_BYTES))
        yield from zip(starts[kept].tolist(), ends[kept].tolist(), is_whole[kept].tolist(), strict=True)


def _hashes(ids: Any) -> Any:
    """A place in the table for each pair of neighbours."""
    wide = ids.astype(np.uint32)
    return (wide[:-1] * np.uint32(0x9E3779B1) + wide[1:] * np.uint32(0x85EBCA77)) >> np.uint32(32 - TABLE_BITS)
