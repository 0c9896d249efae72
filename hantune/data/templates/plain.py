"""plain: the text as it stands, for continued pre-training.

BOS, the messages one after the other with nothing between them, EOS after each answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from hantune.data.templates.base import SPECIMENS, Marks, Script, Template, specimen_text
from hantune.data.types import Message, Rendered
from hantune.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Plain(Template):
    """Any order of messages; what a message may be learned by is its own ``learn``."""

    turns_on: ClassVar[tuple[str, ...] | None] = ()

    def render(self, messages: Sequence[Message], marks: Marks) -> Rendered:
        if not messages:
            raise DataError("template.roles", "对话是空的", hint="用 hantune data prepare 重新整理数据")
        script = Script()
        script.control(marks.bos)
        if self.system and messages[0].role != "system":
            script.context(self.system)
        for message in messages:
            if message.role == "assistant" or message.is_learned:
                script.answer(message.text, learn=message.is_learned, end=marks.eos)
            else:
                script.context(message.text)
        return Rendered(segments=script.segments(), stops=(marks.eos,) if marks.eos else ())

    @property
    def text(self) -> str:
        return specimen_text(self, SPECIMENS)

    @property
    def chat_template(self) -> str:
        answer = "{{ message['content'] + (eos_token if message['role'] == 'assistant' else '') }}"
        return "{{ bos_token }}{%- for message in messages %}" + answer + "{%- endfor %}"


PLAIN = Plain(name="plain")
