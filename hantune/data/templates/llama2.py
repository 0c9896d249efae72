"""Llama 2 chat: ``<s>[INST] <<SYS>>\\n{system}\\n<</SYS>>\\n\\n{question} [/INST] {answer} </s>``, a BOS for each turn.

Source: Meta's ``llama/generation.py`` (contents stripped, system folded into the first question). No default system
prompt: Meta's 129 tokens would nearly triple the cost of short dialogues. Chinese-Alpaca-2 has its own, of one line.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from hantune.data.templates.base import Marks, Script, Turn, TurnTemplate

CHAT_TEMPLATE = (
    "{%- set system = messages[0]['content'] | trim if messages[0]['role'] == 'system' else '' %}"
    "{%- set turns = messages[1:] if messages[0]['role'] == 'system' else messages %}"
    "{%- for message in turns %}"
    "{%- if message['role'] == 'user' %}"
    "{{ bos_token }}{{ '[INST] ' }}"
    "{%- if loop.first and system %}{{ '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' }}{% endif %}"
    "{{- message['content'] | trim + ' [/INST]' }}"
    "{%- else %}{{ ' ' + message['content'] | trim + ' ' + eos_token }}{% endif %}"
    "{%- endfor %}"
)


class Llama2(TurnTemplate):
    """Meta's format; the blanks around the answer belong to it and are learned."""

    turns_on: ClassVar[tuple[str, ...] | None] = ()

    def write(self, script: Script, system: str, turns: Sequence[Turn], marks: Marks) -> None:
        opening = f"<<SYS>>\n{system.strip()}\n<</SYS>>\n\n" if system.strip() else ""
        for question, answer in turns:
            script.control(marks.bos)
            script.context(f"[INST] {opening}{question.strip()} [/INST]")
            if answer is not None:
                script.answer(f" {answer.text.strip()} ", learn=answer.is_learned, end=marks.eos)
            opening = ""

    @property
    def chat_template(self) -> str:
        return CHAT_TEMPLATE


LLAMA2 = Llama2(name="llama2")
CHINESE_ALPACA_2 = Llama2(name="chinese-alpaca-2", system="You are a helpful assistant. 你是一个乐于助人的助手。")
