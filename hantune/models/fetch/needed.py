"""Which files of a repository a person needs, told from their names alone, and which names are an attack."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath, PureWindowsPath
from typing import Literal, NamedTuple

from hantune.errors import RefusedError
from hantune.models.headers import INDEX

Kind = Literal["safetensors", "adapter", "bin", "meta"]
SOURCE = "hantune-source.json"
"""Where ``model get`` notes what a folder is a copy of; never taken from a repository."""

BESIDE = (
    "*.json", "*.model", "*.jinja", "*.tiktoken", "*.txt", "README.md", "LICENSE*", "NOTICE*", "USE_POLICY*",
    "additional_chat_templates/*.jinja",
)  # fmt: skip
"""What stands beside weights: configuration, tokenizer, templates, licence; never code."""
_INDEXES = "*.index.json"
_WEIGHTS: tuple[tuple[Kind, str, tuple[str, ...]], ...] = (
    ("safetensors", r"model(-\d+-of-\d+)?\.safetensors", (INDEX,)),
    ("adapter", r"adapter_model\.safetensors", ()),
    ("safetensors", r"(?!consolidated)[\w.-]+\.safetensors", (_INDEXES,)),
    ("bin", r"pytorch_model(-\d+-of-\d+)?\.bin", ("pytorch_model.bin.index.json",)),
    ("meta", r"consolidated\.\d+\.pth", ("checklist.chk",)),
)
"""The first of these that a repository has is taken: (what it is, names at its root, what belongs to them)."""


class Choice(NamedTuple):
    """The files to fetch, and what kind of weights is among them."""

    kind: Kind
    names: tuple[str, ...]


def choose(names: Sequence[str], *, place: str) -> Choice:
    """The files that make ``names`` usable: one form of the weights, with what stands beside.

    Raises: RefusedError ``hub.unsafe-name``, ``hub.no-model``.
    """
    require_safe(names, place=place)
    for kind, pattern, more in _WEIGHTS:
        weights = {name for name in names if re.fullmatch(pattern, name)}
        if weights:
            beside = {name for name in names if _is_beside(name)}
            beside |= {name for name in names if any(fnmatch.fnmatchcase(name, each) for each in more)}
            return Choice(kind, tuple(sorted(weights | beside)))
    raise RefusedError("hub.no-model", f"这里没有能用的模型权重: {_what_else(names)}", place=place, hint=_HINT)


_HINT = "找同一个模型的 safetensors 版本 (名字里常没有 GGUF, ONNX, AWQ); 数据集用 hantune data prepare"


def _what_else(names: Iterable[str]) -> str:
    """What a repository without weights holds instead."""
    suffixes = sorted({PurePosixPath(name).suffix for name in names} - {"", ".md", ".json", ".txt"})
    return f"只有 {' '.join(suffixes[:6])}" if suffixes else "只有说明文件"


def _is_beside(name: str) -> bool:
    is_index = fnmatch.fnmatchcase(name, _INDEXES)
    depth = name.count("/")
    return (
        name != SOURCE
        and not is_index
        and any(fnmatch.fnmatchcase(name, each) and each.count("/") == depth for each in BESIDE)
    )


def require_safe(names: Iterable[str], *, place: str) -> None:
    """Nothing, where every name stays below the folder it is put into, on every system.

    Raises: RefusedError ``hub.unsafe-name``.
    """
    for name in names:
        parts = PurePosixPath(name).parts
        is_odd = not name or "\\" in name or any(ord(sign) < 32 for sign in name) or PureWindowsPath(name).drive
        if is_odd or name.startswith("/") or ".." in parts or not parts:
            raise RefusedError(
                "hub.unsafe-name",
                f"文件列表里有一个会写到文件夹外面的名字: {name!r}",
                place=place,
                hint="不要用这个来源; 换官方的: --from hf 或 --from modelscope",
            )
