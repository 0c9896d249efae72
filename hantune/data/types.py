"""The values that carry the data's way, one frozen type a stage::

    file ─ sources ─> Row ─ formats ─> Conversation ─ template ─> Rendered ─ tokens ─> Example ─ batch ─> Batch

``source`` (``file:line``) follows an example into every error, every dropped row and every report.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One raw record of a file: ``value`` is what the file held (dict, list or str), ``source`` is ``file:line``."""

    value: Any
    source: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Reject:
    """A record that becomes no sample: where it stood, the rule (``format.roles``), its Chinese text, itself."""

    source: str
    reason: str
    detail: str
    record: Any = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """One utterance. ``learn`` None means the rule: assistant messages are learned, others are not."""

    role: Role
    text: str
    learn: bool | None = None

    @property
    def is_learned(self) -> bool:
        return self.role == "assistant" if self.learn is None else self.learn


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversation:
    """An optional system message, then user and assistant in turn."""

    messages: tuple[Message, ...]
    source: str = ""
    id: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)


class Segment(NamedTuple):
    """A piece of rendered text. ``learn``: its tokens are learned. ``control``: it is one special token's text."""

    text: str
    learn: bool
    control: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Rendered:
    """The exact text of a training sample or serving prompt; joined segments are the text."""

    segments: tuple[Segment, ...]
    stops: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        return "".join(segment.text for segment in self.segments)


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """Token ids and, for each, 1 if it is learned. ``mask[i]`` speaks of ``ids[i]`` itself, not of its successor."""

    ids: tuple[int, ...]
    mask: tuple[int, ...]
    source: str = ""
    is_cut: bool = False
