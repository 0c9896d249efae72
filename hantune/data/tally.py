"""What is counted of a batch of conversations: texts, and with a tokenizer and template tokens. Tallies add up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hantune.data.borders import to_points
from hantune.data.counts import Array, Counts
from hantune.data.language import IS_BLANK, IS_HAN, LANGUAGES, languages, script_counts
from hantune.data.types import Rendered, Segment

if TYPE_CHECKING:
    from hantune.data.bulk import Bulk

SHORT_ANSWER = 8
"""Characters below which an answer is short; a model tuned on such answers says little else."""
LIMITS = (512, 1024, 2048)
"""Values of ``data.max_tokens`` for which the share of cut answers is counted."""
CHINESE_A_BATCH = 500
"""Chinese utterances of a batch whose tokens and characters are compared."""


@dataclass(frozen=True)
class Texts:
    """The messages of a batch, one value a message; ``offsets`` ends those of each conversation, and begins with 0."""

    contents: pa.Array
    points: Array
    """The code points of all of them."""
    is_answer: Array
    is_question: Array
    sizes: Array
    """Characters."""
    offsets: Array

    @cached_property
    def scripts(self) -> Array:
        """Characters of each script; shape ``[N, 5]``."""
        return script_counts(self.points, self.sizes)

    @cached_property
    def languages(self) -> Array:
        """Places in ``LANGUAGES``."""
        return languages(self.scripts)

    @classmethod
    def of(cls, batch: pa.RecordBatch) -> Texts:
        column = batch.column("messages")
        messages = column.flatten()
        contents, roles = messages.field("content"), messages.field("role")
        offsets = np.asarray(column.offsets)
        sizes = np.asarray(pc.utf8_length(contents)).astype(np.int64)
        points = to_points("".join(contents.to_pylist()))
        answers, questions = (pc.equal(roles, role).to_numpy(zero_copy_only=False) for role in ("assistant", "user"))
        return cls(contents, points, answers, questions, sizes, offsets - offsets[0])

    def by_conversation(self, values: Array) -> Array:
        """The sums over the messages of each conversation."""
        return np.diff(np.concatenate([[0], np.cumsum(values)])[self.offsets])

    def chinese(self, most: int) -> list[str]:
        """The first Chinese utterances."""
        places = np.flatnonzero(self.languages == LANGUAGES.index("chinese"))[:most]
        return [str(text) for text in self.contents.take(pa.array(places)).to_pylist()]


class TextTally:
    """Figures that need no tokenizer."""

    LENGTHS = ("turns", "utterance_characters", "dialogue_characters", "question_characters", "answer_characters")

    def __init__(self) -> None:
        self.conversations = self.with_system = self.han = self.visible = 0
        self.lengths = {name: Counts() for name in self.LENGTHS}
        self.languages = np.zeros((2, len(LANGUAGES)), np.int64)
        """Rows: questions, answers."""
        self.keys: list[Array] = []
        """Of each conversation a number that is equal for equal ones."""

    def add(self, batch: pa.RecordBatch, texts: Texts) -> None:
        """Count a batch."""
        answers, questions = texts.is_answer, texts.is_question
        self.conversations += batch.num_rows
        self.with_system += int((~(answers | questions)).sum())
        counted = (
            texts.by_conversation(answers),
            texts.sizes,
            texts.by_conversation(texts.sizes),
            texts.sizes[questions],
            texts.sizes[answers],
        )
        for name, values in zip(self.LENGTHS, counted, strict=True):
            self.lengths[name].add(values)
        for row, chosen in enumerate((questions, answers)):
            self.languages[row] += np.bincount(texts.languages[chosen], minlength=len(LANGUAGES))
        self.han += int(texts.scripts[answers, IS_HAN].sum())
        self.visible += int(texts.sizes[answers].sum() - texts.scripts[answers, IS_BLANK].sum())
        self.keys.append(keys_of(batch.column("id")))

    def merge(self, other: TextTally) -> None:
        """Count what another has counted."""
        for name in ("conversations", "with_system", "han", "visible"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in self.LENGTHS:
            self.lengths[name].merge(other.lengths[name])
        self.languages += other.languages
        self.keys += other.keys

    def summary(self) -> dict[str, Any]:
        """The figures, by name."""
        shares = self.languages / np.maximum(1, self.languages.sum(axis=1, keepdims=True))
        mixes = [dict(zip(LANGUAGES, row.round(6).tolist(), strict=True)) for row in shares]
        return {
            "with_system": self.with_system,
            **{name: counts.summary() for name, counts in self.lengths.items()},
            "short_answers": round(self.lengths["answer_characters"].below(SHORT_ANSWER), 6),
            "chinese_share": round(self.han / max(1, self.visible), 4),
            "languages": {"questions": mixes[0], "answers": mixes[1]},
            "duplicates": duplicates(self.keys),
        }


def keys_of(ids: pa.Array) -> Array:
    """A number of 64 bits for each id (32 hexadecimal digits), equal for equal ones."""
    start, end = ids.offset, ids.offset + len(ids)
    _, offsets, data = ids.buffers()
    ends = np.frombuffer(offsets, np.int32)[start : end + 1]
    digits = np.frombuffer(data, np.uint8)[ends[0] : ends[-1]] if data is not None else np.zeros(0, np.uint8)
    parts = digits.reshape(len(ids), 32)[:, :16].copy().view(np.uint64)
    keys = parts[:, 0] * np.uint64(0x9E3779B97F4A7C15)
    return np.asarray((keys ^ (keys >> np.uint64(31))) + parts[:, 1])


def duplicates(keys: Sequence[Array]) -> dict[str, Any]:
    """{count, share, groups, most}: conversations that equal an earlier one, and how many different ones those are."""
    ordered = np.sort(np.concatenate(keys)) if keys else np.zeros(0, np.uint64)
    is_first = np.r_[True, ordered[1:] != ordered[:-1]] if len(ordered) else np.zeros(0, bool)
    sizes = np.diff(np.append(np.flatnonzero(is_first), len(ordered)))
    count = len(ordered) - len(sizes)
    return {
        "count": count,
        "share": round(count / max(1, len(ordered)), 6),
        "groups": int((sizes > 1).sum()),
        "most": int(sizes.max(initial=0)),
    }


class TokenTally:
    """Figures of the rendered samples, as one tokenizer and template give them."""

    def __init__(self) -> None:
        self.samples, self.answers = Counts(), Counts()
        self.cut = dict.fromkeys(LIMITS, 0)
        self.dropped = self.chinese_tokens = self.chinese_characters = 0

    def add(self, batch: pa.RecordBatch, texts: Texts, bulk: Bulk) -> None:
        """Count a batch; ``bulk`` cuts nothing.

        Raises: DataError ``template.roles``.
        """
        block = bulk.encode(batch)
        self.samples.add(block.lengths)
        self.dropped += block.dropped
        answers = answers_of(block.mask, block.lengths)
        self.answers.add(answers.lengths)
        for limit in LIMITS:
            self.cut[limit] += int((answers.ends > limit).sum())
        chinese = texts.chinese(CHINESE_A_BATCH)
        plain = [Rendered(segments=(Segment(text, False),)) for text in chinese]
        self.chinese_tokens += sum(len(example.ids) for example in bulk.encoder.encode_many(plain))
        self.chinese_characters += sum(map(len, chinese))

    def merge(self, other: TokenTally) -> None:
        """Count what another has counted."""
        self.samples.merge(other.samples)
        self.answers.merge(other.answers)
        for limit, count in other.cut.items():
            self.cut[limit] += count
        for name in ("dropped", "chinese_tokens", "chinese_characters"):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def summary(self) -> dict[str, Any]:
        """{samples, answers, supervised_share, per_character, cut: {limit: share of answers}, dropped}."""
        return {
            "samples": self.samples.summary(),
            "answers": self.answers.summary(),
            "supervised_share": round(self.answers.total / max(1, self.samples.total), 4),
            "per_character": round(self.chinese_tokens / max(1, self.chinese_characters), 3),
            "cut": {str(limit): round(count / max(1, len(self.answers)), 6) for limit, count in self.cut.items()},
            "dropped": self.dropped,
        }


class Answers(NamedTuple):
    """Learned answers, one value each."""

    lasts: Array
    """Where the last token stands among those of all samples."""
    lengths: Array
    """Tokens."""
    ends: Array
    """After how many tokens of its sample it ends."""


def answers_of(mask: Array, lengths: Array) -> Answers:
    """The learned answers of samples; ``mask`` runs through all of them, ``lengths`` are theirs (at least 1)."""
    sample_ends = np.cumsum(lengths)
    learned = mask.astype(bool)
    follows, precedes = np.append(learned[1:], False), np.append(False, learned[:-1])
    follows[sample_ends - 1] = False
    precedes[sample_ends - lengths] = False
    firsts, lasts = np.flatnonzero(learned & ~precedes), np.flatnonzero(learned & ~follows)
    starts = (sample_ends - lengths)[np.searchsorted(sample_ends, lasts, side="right")]
    return Answers(lasts, lasts - firsts + 1, lasts - starts + 1)
