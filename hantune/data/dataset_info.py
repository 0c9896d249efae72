"""``dataset_info.json`` beside the data: what the columns and speakers of a file are called, where not as usual.

Source: LLaMA-Factory's data folder (``formatting``, ``columns``, ``tags``, ``ranking``). It is read where it names the
file, never required; the file of the same name that ``datasets`` writes names none and is passed over.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hantune.log import console

NAME = "dataset_info.json"
COLUMNS = {
    "prompt": "instruction", "query": "input", "response": "output", "system": "system", "history": "history",
    "messages": "conversations", "chosen": "chosen", "rejected": "rejected",
}  # fmt: skip
"""What LLaMA-Factory calls a column -> its name in alpaca and sharegpt."""
ROLES = {
    "user_tag": ("human", "human"), "assistant_tag": ("gpt", "gpt"), "system_tag": ("system", "system"),
    "observation_tag": ("observation", "observation"), "function_tag": ("function_call", "function_call"),
}  # fmt: skip
"""tag -> (the speaker's name where the tag is not given, the speaker's name in sharegpt)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """One entry: the file's own column names and speakers, and what hantune calls them."""

    entry: str
    columns: tuple[tuple[str, str], ...]
    role_tag: str = "from"
    content_tag: str = "value"
    speakers: tuple[tuple[str, str], ...] = ()

    def apply(self, value: Any) -> Any:
        """The record under the usual names."""
        if not isinstance(value, Mapping):
            return value
        names = dict(self.columns)
        renamed = {names.get(key, key): inner for key, inner in value.items() if names.get(key, key) == key}
        renamed |= {names[key]: inner for key, inner in value.items() if key in names}
        for key in ("conversations", "chosen", "rejected"):
            if key in renamed:
                renamed[key] = self._turns(renamed[key])
        return renamed

    def _turns(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._turns(item) for item in value]
        if not isinstance(value, Mapping) or self.role_tag not in value:
            return value
        speaker = value[self.role_tag]
        return {"from": dict(self.speakers).get(speaker, speaker), "value": value.get(self.content_tag)}


def layout_of(path: Path) -> Layout | None:
    """The entry that names ``path`` in the ``dataset_info.json`` of its folder."""
    info = path.parent / NAME
    if path.name == NAME or not info.is_file():
        return None
    try:
        entries = json.loads(info.read_bytes())
    except ValueError:
        console.warn(f"{NAME} 不是完整的 JSON, 没有用它")
        return None
    for entry, facts in entries.items() if isinstance(entries, dict) else ():
        if isinstance(facts, dict) and isinstance(facts.get("file_name"), str) and facts["file_name"] == path.name:
            return _layout(entry, facts)
    return None


def _layout(entry: str, facts: dict[str, Any]) -> Layout:
    columns, tags = _texts(facts.get("columns")), _texts(facts.get("tags"))
    speakers = tuple((tags.get(tag, usual), ours) for tag, (usual, ours) in ROLES.items())
    return Layout(
        entry=str(entry),
        columns=tuple((theirs, COLUMNS[name]) for name, theirs in columns.items() if name in COLUMNS),
        role_tag=tags.get("role_tag", "from"),
        content_tag=tags.get("content_tag", "value"),
        speakers=speakers,
    )


def _texts(value: Any) -> dict[str, str]:
    """The members of an object that are texts."""
    return {key: text for key, text in value.items() if isinstance(text, str)} if isinstance(value, dict) else {}
