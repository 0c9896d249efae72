"""Writing a fully trained model: weights, tokenizer, template and record, whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hantune.models.adapter import NEW_ROWS
from hantune.models.load import quiet_transformers
from hantune.models.record import base_entry, dress
from hantune.models.shards import SHARD_BYTES
from hantune.paths import new_folder


def save_model(
    model: Any, folder: Path, *, base: str | None, tokenizer: Any, template: Any, info: Mapping[str, Any]
) -> None:
    """Write a model folder that ``hantune chat``, ``eval`` and ``train`` take; an older one of that name is replaced.

    ``base``: path or hub id of the model that training began with, or None. ``info``: ``data``, ``metrics`` ...

    Raises: MachineError ``machine.disk-full``.
    """
    entry = base_entry(base, folder) if base else None
    vars(model.config).pop(NEW_ROWS, None)  # all rows were trained
    with new_folder(folder, replace=True) as temporary, quiet_transformers():
        model.save_pretrained(temporary, max_shard_size=SHARD_BYTES)
        dress(temporary, tokenizer=tokenizer, template=template, base=entry, info=info)
