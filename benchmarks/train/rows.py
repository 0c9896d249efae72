"""What is compared: rows of the table, each a tool with settings. What a row does not set stays the tool's default.

All rows: LoRA r=8 alpha=16 on all linear layers, AdamW, constant learning rate, clipping at 1, the same dialogues, the
same template, the same number of dialogues a step as near as packing allows; gradient checkpointing off unless the row
is a tool's default.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Row:
    """``floor``: whose matrix rate its floor is. ``is_default``: the tool as it comes. ``model``: the base's folder."""

    tool: str
    floor: str
    what: str
    settings: dict[str, Any] = field(default_factory=dict)
    is_default: bool = False
    model: str = "model"


def _off(**settings: Any) -> dict[str, Any]:
    return {"checkpointing": False, **settings}


ROWS: dict[str, Row] = {
    "hantune-float32": Row("hantune", "float32", "float32", {"precision": "float32"}),
    "hantune-bf16": Row("hantune", "bf16", "bf16 base, float32 adapters", {"precision": "bf16"}),
    "trl-default": Row("trl", "bf16", "SFTConfig() (bf16 autocast, checkpointing), padded 8", is_default=True),
    "trl-float32": Row("trl", "float32", "float32, padded 8", _off(precision="float32"), is_default=True),
    "trl-float32-packed": Row("trl", "float32", "float32, bfd packing", _off(precision="float32", layout="packed")),
    "trl-packed": Row("trl", "bf16", "bf16 autocast, bfd packing", _off(precision="autocast", layout="packed")),
    "trl-packed-1": Row(
        "trl", "bf16", "bf16 autocast, bfd packing, row by row", _off(precision="autocast", layout="packed", rows=1)
    ),
    "trl-flat": Row("trl", "bf16", "bf16 autocast, padding-free 8", _off(precision="autocast", layout="flat")),
    "trl-flat-16": Row(
        "trl", "bf16", "bf16 autocast, padding-free 16", _off(precision="autocast", layout="flat", batch=16)
    ),
    "trl-sorted": Row("trl", "bf16", "bf16 autocast, by length 8", _off(precision="autocast", layout="sorted")),
    "trl-bf16-packed": Row("trl", "bf16", "bf16 weights, bfd packing", _off(precision="bf16", layout="packed")),
    "trl-bf16-packed-1": Row(
        "trl", "bf16", "bf16 weights, bfd packing, row by row", _off(precision="bf16", layout="packed", rows=1)
    ),
    "trl-bf16-flat": Row("trl", "bf16", "bf16 weights, padding-free 8", _off(precision="bf16", layout="flat")),
    "lf-default": Row("llamafactory", "float32", "defaults (float32, checkpointing), padded 8", is_default=True),
    "lf-float32": Row("llamafactory", "float32", "float32, padded 8", _off(precision="float32"), is_default=True),
    "lf-float32-neat": Row(
        "llamafactory", "float32", "float32, neat_packing", _off(precision="float32", layout="packed")
    ),
    "lf-bf16": Row("llamafactory", "bf16", "bf16, padded 8", _off(precision="bf16")),
    "lf-bf16-sorted": Row("llamafactory", "bf16", "bf16, by length 8", _off(precision="bf16", layout="sorted")),
    "lf-bf16-neat": Row("llamafactory", "bf16", "bf16, neat_packing", _off(precision="bf16", layout="packed")),
    "lf-bf16-base-neat": Row(
        "llamafactory", "bf16", "bf16, neat_packing, base stored in bf16", _off(precision="bf16", layout="packed"),
        model="model-bf16",
    ),
    "lf-bf16-leaky": Row(
        "llamafactory", "bf16", "bf16, packing (documents see each other)",
        _off(precision="bf16", layout="packed", leaks=True),
    ),
}  # fmt: skip

SETS = {
    "standard": [
        "hantune-bf16", "trl-packed", "lf-bf16-neat", "lf-bf16-base-neat", "hantune-float32", "trl-default",
        "trl-float32", "lf-default", "lf-float32",
    ],
    "hantune": ["hantune-float32", "hantune-bf16"],
    "peers": [name for name, row in ROWS.items() if row.tool != "hantune"],
    "all": list(ROWS),
}  # fmt: skip
"""Names for lists of rows, in the order in which a round runs them."""


def chosen(names: str) -> list[str]:
    """The rows of a comma-separated list of row and set names, each once.

    Raises: SystemExit naming what there is.
    """
    found: list[str] = []
    for name in names.split(","):
        if name not in SETS and name not in ROWS:
            raise SystemExit(f"no row or set {name}; sets: {', '.join(SETS)}; rows: {', '.join(ROWS)}")
        found += SETS.get(name, [name])
    return list(dict.fromkeys(found))
