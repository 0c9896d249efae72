"""``hantune.json``: what travels with an adapter or a model so that others use it as it was trained.

``{"format": 1, "template": {name, text, system}, "base": {id, revision, name, fingerprint, hint}, "data", "versions",
"metrics"}``. Nothing in it tells where somebody's disk had the files.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from hantune import __version__
from hantune.errors import ModelError
from hantune.models.fingerprint import fingerprint
from hantune.models.hub import hub_origin, local_folder
from hantune.models.tokenizer import copy_tokenizer
from hantune.paths import write_json

FILE = "hantune.json"
FORMAT = 1


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record of an adapter or model folder; None where there is none (it was not made by hantune).

    Raises: ModelError ``adapter.bad-record`` for a broken record or one of a newer hantune.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_bytes())
        if not isinstance(record, dict) or record.get("format") != FORMAT:
            raise ValueError("format")
        if {"name", "text"} - record["template"].keys():
            raise ValueError("template")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            "adapter.bad-record",
            f"{FILE} 读不懂: 不完整, 或者来自更新的 hantune",
            place=str(path),
            hint="升级 hantune, 或者从训练的运行文件夹重新拷一份",
        ) from error
    return record


def template_entry(template: Any) -> dict[str, str | None]:
    """How a template is written down."""
    return {"name": template.name, "text": template.text, "system": getattr(template, "system", None)}


def stored_template(record: Mapping[str, Any]) -> Any:
    """The template that a record names."""
    from hantune.data.templates import restore_template

    entry = record["template"]
    return restore_template(entry["name"], entry["text"], entry.get("system"))


def base_entry(base: str, folder: Path) -> dict[str, str | None]:
    """What an adapter in ``folder`` remembers of its base: hub id or bare name, never a path of this machine."""
    local = local_folder(base)
    origin = hub_origin(local.resolve())
    return {
        "id": origin[0] if origin else None,
        "revision": origin[1] if origin else None,
        "name": origin[0].split("/")[-1] if origin else local.resolve().name,
        "fingerprint": fingerprint(local),
        "hint": None if origin else _hint(local, folder),
    }


def _hint(base: Path, folder: Path) -> str | None:
    """The way from ``folder`` to ``base``, unless it leads through somebody's home folder."""
    try:
        way = os.path.relpath(base.resolve(), folder.resolve())
    except ValueError:  # another drive on Windows
        return None
    return None if Path.home().name in Path(way).parts else Path(way).as_posix()


def versions() -> dict[str, str]:
    """The versions that made the weights."""
    return {"hantune": __version__} | {name: metadata.version(name) for name in ("torch", "transformers", "peft")}


def dress(
    folder: Path, *, tokenizer: Any, template: Any, base: Mapping[str, Any] | None, info: Mapping[str, Any]
) -> None:
    """Put tokenizer, chat template and record beside weights. ``info`` may hold ``data``, ``metrics`` and more."""
    from hantune.data.tokens import Encoder

    copy_tokenizer(tokenizer, folder, chat_template=template.jinja_for(Encoder(tokenizer).marks))
    record = {"format": FORMAT, "template": template_entry(template), "base": base, "versions": versions()}
    write_json(folder / FILE, record | dict(info))
