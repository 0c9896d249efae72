"""What the data are like in figures: turns, lengths, languages, duplicates; with a tokenizer and template also in
tokens. Everything is counted batch by batch: memory does not grow with the data, but for eight bytes a conversation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from hantune.data.bulk import Bulk
from hantune.data.pool import cores, ordered_map
from hantune.data.prepared import Columns, Prepared
from hantune.data.split import content_id
from hantune.data.tally import SHORT_ANSWER, Texts, TextTally, TokenTally
from hantune.data.templates.base import Template
from hantune.data.tokens import Encoder
from hantune.data.types import Conversation
from hantune.log import console

ENDLESS = 1 << 40
"""A ``max_tokens`` that cuts nothing."""
BATCH = 4096
MANY = 100_000
"""Conversations whose tokens are worth more than one process."""
Part = Literal["train", "val"]
PARTS: tuple[Part, ...] = ("train", "val")
Tallies = tuple[TextTally, list[TokenTally]]


class Readable(Protocol):
    """Prepared data, or a raw file read as if it were."""

    def conversations(self, part: Part) -> Iterator[Conversation]: ...


class Model(NamedTuple):
    """A tokenizer and a template under the name that the user gave."""

    name: str
    encoder: Encoder
    template: Template


class _Counting:
    """Batches to tallies; goes to other processes, which are given the numbers of row groups."""

    def __init__(self, models: Sequence[Model], path: Path | None = None) -> None:
        self._bulks = [Bulk(model.template, model.encoder, ENDLESS) for model in models]
        self._path = path

    def __call__(self, work: pa.RecordBatch | int) -> Tallies:
        """Raises: DataError ``template.roles``."""
        batch = read_group(self._path, work) if isinstance(work, int) and self._path else work
        texts, text_tally, token_tallies = Texts.of(batch), TextTally(), [TokenTally() for _ in self._bulks]
        text_tally.add(batch, texts)
        for tally, bulk in zip(token_tallies, self._bulks, strict=True):
            tally.add(batch, texts, bulk)
        return text_tally, token_tallies


def read_group(path: Path, number: int) -> pa.RecordBatch:
    """One row group of a part."""
    with pq.ParquetFile(path) as file:
        return file.read_row_group(number).combine_chunks().to_batches()[0]


def statistics(data: Readable, models: Sequence[Model] = ()) -> dict[str, Any]:
    """Figures over both parts: {conversations, train, val, turns, ..., languages, duplicates, tokens, warnings}.

    ``tokens`` holds one entry a model.

    Raises: DataError ``template.roles``; what reading the data raises.
    """
    texts, tokens, counts = TextTally(), [TokenTally() for _ in models], {"train": 0, "val": 0}
    total = sum(map(data.count, PARTS)) if isinstance(data, Prepared) else None
    with console.progress("统计", total, unit="段") as bar:
        for part in PARTS:
            with _tallies(data, part, models) as found:
                for one, others in found:
                    texts.merge(one)
                    for tally, other in zip(tokens, others, strict=True):
                        tally.merge(other)
                    counts[part] += one.conversations
                    bar.advance(one.conversations)
    result: dict[str, Any] = {"conversations": sum(counts.values()), **counts, **texts.summary()}
    if models:
        result["tokens"] = [
            {**_identity(model), **tally.summary()} for model, tally in zip(models, tokens, strict=True)
        ]
    return {**result, "warnings": warnings(result)}


def _identity(model: Model) -> dict[str, Any]:
    return {"model": model.name, "template": model.template.name, "vocabulary": model.encoder.vocab_size}


@contextmanager
def _tallies(data: Readable, part: Part, models: Sequence[Model]) -> Iterator[Iterator[Tallies]]:
    """What is counted of each batch of a part."""
    if not isinstance(data, Prepared):
        yield map(_Counting(models), _batches(data.conversations(part)))
        return
    path = data.folder / f"{part}.parquet"
    groups = range(pq.read_metadata(path).num_row_groups)
    workers = cores() if models and data.count(part) >= MANY else 1
    with ordered_map(_Counting(models, path), groups, workers) as found:
        yield found


def _batches(conversations: Iterator[Conversation]) -> Iterator[pa.RecordBatch]:
    """Conversations as batches of ``prepared.SCHEMA``."""
    columns = Columns()
    while chunk := list(islice(conversations, BATCH)):
        for conversation in chunk:
            columns.add(conversation, content_id(conversation))
        yield columns.take()


def warnings(result: dict[str, Any]) -> list[str]:
    """What the figures warn of, in Chinese, each with what to do."""
    found = []
    if result["short_answers"] > 0.5:
        short = f"{result['short_answers']:.0%} 的回答不到 {SHORT_ANSWER} 个字"
        found.append(f"{short}, 练出来的模型会只说短句; 可以混入一些长回答的数据")
    if result["conversations"] and result["chinese_share"] < 0.3:
        found.append(f"回答里只有 {result['chinese_share']:.0%} 是汉字: 练出来的模型多半不用中文回答")
    if result["duplicates"]["share"] > 0.01:
        again = f"有 {result['duplicates']['count']:,} 段对话和前面的相同 ({result['duplicates']['share']:.1%})"
        found.append(f"{again}, 学的时候会被多学几遍; 去掉: hantune data prepare ... --dedup exact")
    for tokens in result.get("tokens", []):
        if tokens["cut"]["1024"] > 0.05:
            cut = f"max_tokens=1024 时有 {tokens['cut']['1024']:.0%} 的回答会被截断"
            found.append(f"{cut} ({tokens['model']}), 训练时请调大 data.max_tokens")
    return found
