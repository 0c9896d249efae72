"""Llama 3: ``<|start_header_id|>{role}<|end_header_id|>\\n\\n{text}<|eot_id|>``, one BOS in front.

Source: Meta's ``llama/tokenizer.py`` (class ``ChatFormat``; contents stripped). A model that ships a chat template of
its own is rendered by that one; this serves base models, which ship none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from hantune.data.templates.base import Marks, Script, Turn, TurnTemplate

START, END, TERMINATOR = "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{%- for message in messages %}"
    "{%- if message['role'] != 'system' or message['content'] | trim %}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}"
    "{{- message['content'] | trim + '<|eot_id|>' }}"
    "{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)


class Llama3(TurnTemplate):
    """Meta's format for Llama 3; ``<|eot_id|>`` ends every message and is learned after answers."""

    turns_on: ClassVar[tuple[str, ...] | None] = ()

    def write(self, script: Script, system: str, turns: Sequence[Turn], marks: Marks) -> None:
        script.control(marks.bos)
        if system.strip():
            _message(script, "system", system)
        for question, answer in turns:
            _message(script, "user", question)
            _header(script, "assistant")
            if answer is not None:
                script.answer(answer.text.strip(), learn=answer.is_learned, end=TERMINATOR)

    def stops(self, marks: Marks) -> tuple[str, ...]:
        return (TERMINATOR, *super().stops(marks))

    @property
    def chat_template(self) -> str:
        return CHAT_TEMPLATE


def _header(script: Script, role: str) -> None:
    script.control(START)
    script.context(role)
    script.control(END)
    script.context("\n\n")


def _message(script: Script, role: str, text: str) -> None:
    _header(script, role)
    script.context(text.strip())
    script.control(TERMINATOR)


LLAMA3 = Llama3(name="llama3")
