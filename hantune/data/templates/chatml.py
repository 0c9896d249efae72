"""ChatML: ``<|im_start|>{role}\\n{text}<|im_end|>\\n``, neither BOS nor EOS.

Source: OpenAI's ``chatml.md``, as Qwen and Yi use it. The newline after ``<|im_end|>`` is never generated, so it is
not learned.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from hantune.data.templates.base import Marks, Script, Turn, TurnTemplate

START, TERMINATOR = "<|im_start|>", "<|im_end|>"
CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{%- if message['role'] != 'system' or message['content'] %}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


class ChatML(TurnTemplate):
    """Contents as they stand, each message between its two control tokens."""

    turns_on: ClassVar[tuple[str, ...] | None] = ()

    def write(self, script: Script, system: str, turns: Sequence[Turn], marks: Marks) -> None:
        if system:
            _message(script, "system", system)
        for question, answer in turns:
            _message(script, "user", question)
            script.control(START)
            script.context("assistant\n")
            if answer is not None:
                script.answer(answer.text, learn=answer.is_learned, end=TERMINATOR)
                script.context("\n")

    def stops(self, marks: Marks) -> tuple[str, ...]:
        return (TERMINATOR, *super().stops(marks))

    @property
    def chat_template(self) -> str:
        return CHAT_TEMPLATE


def _message(script: Script, role: str, text: str) -> None:
    script.control(START)
    script.context(f"{role}\n{text}")
    script.control(TERMINATOR)
    script.context("\n")


CHATML = ChatML(name="chatml")
