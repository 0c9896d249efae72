"""Every setting of a run as a plain value: dotted name, sentence, type in Chinese words, default, limits.

Made from ``schema.py`` alone. Comments in run files, error texts and ``docs/reference/config.md`` are made from here.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from hantune.config.schema import RunConfig

WORDS = {int: "整数", float: "数", bool: "true 或 false", str: "文字"}
LIMITS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """One setting. ``kind`` is its type with limits, ``整数 (≥ 1)``; ``choices`` are the words it may be, if fixed.

    ``examples``: values that fit, where neither type nor choices say enough.
    """

    section: str
    key: str
    sentence: str
    kind: str
    choices: tuple[str, ...]
    types: frozenset[type]
    examples: tuple[Any, ...]
    default: Any

    @property
    def name(self) -> str:
        """``section.key``."""
        return f"{self.section}.{self.key}"

    @property
    def is_nullable(self) -> bool:
        return type(None) in self.types

    @property
    def description(self) -> str:
        """Type and limits in one phrase: ``整数 (≥ 1), 可以留空``."""
        return self.kind + (", 可以留空" if self.is_nullable else "")


@cache
def settings() -> dict[str, Setting]:
    """Dotted name -> setting, in the order of the schema."""
    found = (
        _setting(section, key, field)
        for section, section_class in sections().items()
        for key, field in section_class.model_fields.items()
    )
    return {setting.name: setting for setting in found}


@cache
def sections() -> dict[str, Any]:
    """Section name -> its class, in the order of the schema."""
    return {name: field.annotation for name, field in RunConfig.model_fields.items()}


def _setting(section: str, key: str, field: FieldInfo) -> Setting:
    """What the schema says about one field."""
    parts = [*_parts(field.annotation, tuple(field.metadata))]
    named = [part for part in parts if part[0] is not type(None)]
    return Setting(
        section=section,
        key=key,
        sentence=field.description or "",
        kind=" 或 ".join(_kind_text(part) + _limits_text(notes) for part, notes in named),
        choices=tuple(choice for part, _ in named for choice in _choices(part)),
        types=frozenset(_python_type(part) for part, _ in parts),
        examples=tuple(field.examples or ()),
        default=field.get_default(),
    )


def _parts(annotation: Any, metadata: tuple[Any, ...] = ()) -> Iterator[tuple[Any, tuple[Any, ...]]]:
    """The alternatives of a type, each with its own limits: ``int | None`` gives ``int`` and ``None``."""
    if get_origin(annotation) is Annotated:
        inner, *notes = get_args(annotation)
        flat = [item for note in notes for item in getattr(note, "metadata", [note])]
        yield from _parts(inner, (*metadata, *flat))
    elif get_origin(annotation) in (Union, types.UnionType):
        for alternative in get_args(annotation):
            yield from _parts(alternative, metadata)
    else:
        yield annotation, metadata


def _kind_text(part: Any) -> str:
    """A type in Chinese words."""
    if get_origin(part) is Literal:
        choices = get_args(part)
        return " 或 ".join([", ".join(choices[:-1]), choices[-1]] if len(choices) > 1 else choices)
    if get_origin(part) is tuple:
        item, _ = next(_parts(get_args(part)[0]))
        return f"{WORDS[item]}列表" if item in WORDS else f"列表, 每项是 {_kind_text(item)}"
    return WORDS[part]


def _choices(part: Any) -> tuple[str, ...]:
    """The fixed words of a literal, or of the items of a list."""
    if get_origin(part) is Literal:
        return tuple(get_args(part))
    if get_origin(part) is tuple:
        return _choices(get_args(part)[0])
    return ()


def _python_type(part: Any) -> type:
    """The type of a value that fits: literals are texts."""
    origin = get_origin(part)
    plain: type = str if origin is Literal else origin or part
    return plain


def _limits_text(notes: tuple[Any, ...]) -> str:
    """``Ge(ge=1)`` as `` (≥ 1)``; empty without limits."""
    limits = [f"{sign} {getattr(note, name)}" for note in notes for name, sign in LIMITS.items() if hasattr(note, name)]
    limits += [f"至少 {note.min_length} 项" for note in notes if getattr(note, "min_length", 0)]
    return f" ({', '.join(limits)})" if limits else ""
