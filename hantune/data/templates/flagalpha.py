"""FlagAlpha (Llama2-Chinese, Atom): ``<s>Human: {question}\\n</s><s>Assistant: {answer}\\n</s>``.

Source: ``train/sft`` of FlagAlpha/Llama2-Chinese. Every message stands between BOS and EOS; the newline before the
EOS is part of the answer and learned.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from hantune.data.templates.base import Marks, Script, Turn, TurnTemplate

CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{%- if message['role'] == 'system' %}"
    "{%- if message['content'] %}{{ bos_token }}{{ 'System: ' + message['content'] + '\\n' + eos_token }}{% endif %}"
    "{%- elif message['role'] == 'user' %}"
    "{{ bos_token }}{{ 'Human: ' + message['content'] + '\\n' + eos_token }}{{ bos_token }}{{ 'Assistant: ' }}"
    "{%- else %}{{ message['content'] + '\\n' + eos_token }}"
    "{%- endif %}"
    "{%- endfor %}"
)


class FlagAlpha(TurnTemplate):
    """Contents as they stand; the prompt ends in ``Assistant: ``, blank included."""

    turns_on: ClassVar[tuple[str, ...] | None] = ()

    def write(self, script: Script, system: str, turns: Sequence[Turn], marks: Marks) -> None:
        if system:
            _message(script, f"System: {system}\n", marks)
        for question, answer in turns:
            _message(script, f"Human: {question}\n", marks)
            script.control(marks.bos)
            script.context("Assistant: ")
            if answer is not None:
                script.answer(f"{answer.text}\n", learn=answer.is_learned, end=marks.eos)

    @property
    def chat_template(self) -> str:
        return CHAT_TEMPLATE


def _message(script: Script, text: str, marks: Marks) -> None:
    script.control(marks.bos)
    script.context(text)
    script.control(marks.eos)


FLAGALPHA = FlagAlpha(name="flagalpha")
