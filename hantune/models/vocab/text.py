"""The user's text as the choice of pieces needs it: counted stretches, some held out to measure on, within bounds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hantune.data.prepared import Prepared
from hantune.data.raw import open_data
from hantune.data.split import content_id, draw
from hantune.data.types import Conversation
from hantune.errors import DataError
from hantune.models.vocab.pieces import runs_of

MOST_CHARACTERS = 4_000_000
"""Characters that one source is counted on; of a larger one, every second, fourth ... conversation."""
HELD_SHARE = 0.05
HELD_CHARACTERS = 200_000
"""Characters held out of one source to measure on."""


@dataclass(kw_only=True)
class Source:
    """What was read of one source: texts to choose from and texts held out."""

    name: str
    texts: list[str] = field(default_factory=list)
    held: list[str] = field(default_factory=list)
    stride: int = 1

    @property
    def characters(self) -> int:
        return sum(map(len, self.texts))


def read_source(given: str) -> Source:
    """The messages of a PREPARED folder or of raw files. Held out: the validation part, else a twentieth by hash.

    Raises: DataError ``source.*``, ``data.*``, ``vocab.no-text``.
    """
    data = open_data(given)
    source = Source(name=Path(given).name)  # it goes into the model's record: no path of this machine
    has_val = isinstance(data, Prepared) and data.count("val") > 0
    size = 0
    for number, conversation in enumerate(data.conversations("train")):
        if not has_val and draw(content_id(conversation), 0) < HELD_SHARE * 2**64:
            _hold(source, conversation)
        elif number % source.stride == 0:
            texts = _texts(conversation)
            source.texts += texts
            size += sum(map(len, texts))
            if size > MOST_CHARACTERS:
                source.texts = source.texts[::2]
                source.stride *= 2
                size = source.characters
    for conversation in data.conversations("val") if has_val else ():
        _hold(source, conversation)
    if not source.texts or not source.held:
        raise DataError(
            "vocab.no-text",
            "语料太少: 选词和留下来量效果的文字, 总有一边是空的",
            place=given,
            hint="至少给几十段对话; 或者用现成的词: --pieces 文件, --sp-model 文件",
        )
    return source


def _texts(conversation: Conversation) -> list[str]:
    return [message.text for message in conversation.messages if message.text]


def _hold(source: Source, conversation: Conversation) -> None:
    if sum(map(len, source.held)) < HELD_CHARACTERS:
        source.held += _texts(conversation)


def weighted_runs(sources: Sequence[Source]) -> Counter[str]:
    """The stretches of all sources; a smaller source counts more, by the root of how much smaller it is.

    Counted as they stand, ten thousand short chats vanish beside a medical library; made equal, each word of theirs
    would count as ten.
    """
    largest = max(source.characters for source in sources)
    counts: Counter[str] = Counter()
    for source in sources:
        weight = max(1, round((largest / source.characters) ** 0.5))
        for run, count in runs_of(source.texts).items():
            counts[run] += count * weight
    return counts
