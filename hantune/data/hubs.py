"""Names of data sets on Hugging Face and ModelScope: what a name stands for, and which of its files are for what.

Nothing here reaches the network; that is done in ``sources`` alone.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

from hantune.data.container import PARTS, SUFFIXES, Part, suffix_of
from hantune.data.packed import PACKED

Hub = Literal["hf", "modelscope"]
PREFIXES: dict[str, Hub] = {"hf:": "hf", "huggingface:": "hf", "modelscope:": "modelscope", "ms:": "modelscope"}
TITLES = {"hf": "Hugging Face", "modelscope": "ModelScope (魔搭)"}
PAGES = {"hf": "https://huggingface.co/datasets/{id}", "modelscope": "https://www.modelscope.cn/datasets/{id}"}
PATTERNS = [f"*{suffix}{packed}" for suffix in SUFFIXES for packed in ("", *PACKED)] + ["*.zip"]
"""What is fetched of a data set: data files, never code."""
_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_SPLIT = re.compile(r"[A-Za-z]+")


class DataSet(NamedTuple):
    """A data set on a hub; ``files`` names those that must be there, () stands for all data files."""

    hub: Hub
    id: str
    files: tuple[str, ...] = ()


_BASE = tuple(f"lccc_base_{part}.jsonl.gz" for part in ("train", "valid", "test"))
KNOWN = {
    "lccc": DataSet("hf", "silver/lccc", _BASE),
    "lccc-base": DataSet("hf", "silver/lccc", _BASE),
    "lccc-large": DataSet("hf", "silver/lccc", ("lccc_large.jsonl.gz",)),
    "samsum": DataSet("hf", "knkarthick/samsum"),
    "train-1m-cn": DataSet("hf", "BelleGroup/train_1M_CN", ("Belle_open_source_1M.json",)),
    "train-0.5m-cn": DataSet("hf", "BelleGroup/train_0.5M_CN", ("Belle_open_source_0.5M.json",)),
}  # fmt: skip
"""Old names -> where the files are now: the scripts behind the old ones no longer load. Known files are asked for by
their names, so that without a network these can be told."""
OWNERS = ("thu-coai/", "silver/", "samsung/", "bellegroup/")
"""Owners under whom old guides name them."""


def data_set(given: str) -> DataSet | None:
    """The data set that a name stands for, or None where it can only be a path."""
    for prefix, hub in PREFIXES.items():
        if given.lower().startswith(prefix):
            id = given[len(prefix) :]
            known = _known(id) if hub == "hf" else None
            return known or (DataSet(hub, id) if _ID.fullmatch(id) else None)
    if known := _known(given):
        return known
    is_file_name = suffix_of(Path(given)) in (*SUFFIXES, ".zip", ".gz", ".zst")
    if not _ID.fullmatch(given) or is_file_name or Path(given).parent.is_dir():
        return None
    return DataSet("hf", given)


def _known(name: str) -> DataSet | None:
    name = name.lower()
    for owner in OWNERS:
        name = name.removeprefix(owner)
    return KNOWN.get(name.replace("_", "-"))


def part_of(file: str) -> Part:
    """The part that a file's name or folder says it is for: ``data/validation-00000.parquet`` is ``val``."""
    path = PurePosixPath(file)
    for words in (path.name, path.parent.name):
        found = [PARTS[word] for word in _SPLIT.findall(words.lower()) if PARTS.get(word)]
        if found:
            return found[-1]
    return None
