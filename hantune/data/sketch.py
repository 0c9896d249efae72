"""Figures of prepared data for its card, in a time that hardly grows with the data (0.2 s of CPU for a million)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from hantune.data.tally import Texts, TextTally, duplicates, keys_of

SAMPLED_GROUPS = 16
"""Row groups that are read at most."""


def sketch(folder: Path) -> dict[str, Any]:
    """Figures of the training part: {rows, sampled, ...}, as of ``TextTally.summary``.

    Of many conversations, ``SAMPLED_GROUPS`` row groups that lie evenly among all are counted; duplicates in all.
    """
    texts = TextTally()
    with pq.ParquetFile(folder / "train.parquet") as file:
        num = file.num_row_groups
        for place in range(min(num, SAMPLED_GROUPS)):
            for batch in file.read_row_group(place * num // min(num, SAMPLED_GROUPS)).to_batches():
                texts.add(batch, Texts.of(batch))
        found = texts.summary()
        keys = [keys_of(ids) for ids in file.read(["id"]).column("id").chunks]
        return {**found, "rows": file.metadata.num_rows, "sampled": texts.conversations, "duplicates": duplicates(keys)}
