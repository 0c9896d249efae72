"""What a prompt template is: messages in, segments with learn bits out. The mask is decided here and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from hantune.data.types import Message, Rendered, Segment


@dataclass(frozen=True, kw_only=True, slots=True)
class Marks:
    """The special texts of one tokenizer: ``bos`` and ``eos`` ('' where it has none)."""

    bos: str = "<s>"
    eos: str = "</s>"


class Template(Protocol):
    """Renders a conversation.

    Messages that end with an assistant give the training text; messages that end with a user give the serving prompt.
    Law: ``render(m[:k]).segments`` joined is a prefix of ``render(m)`` joined, for every k that ends with a user.
    """

    @property
    def name(self) -> str: ...

    @property
    def text(self) -> str:
        """A text that identifies the template (stored in the adapter, hashed into the token cache)."""
        ...

    def render(self, messages: Sequence[Message], marks: Marks) -> Rendered:
        """Segments and stop strings.

        Raises: DataError ``template.roles`` for an order the template cannot show.
        """
        ...
