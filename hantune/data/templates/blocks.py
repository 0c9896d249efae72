"""Templates of plain words, which differ only in their words: one class, one instance a format.

``bos [opening gap] before question after answer eos [between before question after answer eos] ...``
The opening is the system prompt, or what the format itself opens with. Formats that were made for one question go on
with ``between`` and the next question, so they serve conversations too, and every prompt stays a prefix.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from hantune.data.templates.base import SPECIMENS, Marks, Script, Turn, TurnTemplate, specimen_text
from hantune.data.types import Message

PAIRED = "\n\n### Input:\n"
"""A question that holds this text is an instruction with an input (alpaca)."""


@dataclass(frozen=True, kw_only=True)
class Blocks(TurnTemplate):
    """Words around questions and answers; ``opening_paired`` opens when the first question holds ``PAIRED``."""

    turns_on: ClassVar[tuple[str, ...] | None] = (PAIRED,)
    before: str
    after: str
    between: str = ""
    opening: str = ""
    opening_paired: str = ""
    gap: str = "\n\n"
    stop: str = ""

    def write(self, script: Script, system: str, turns: Sequence[Turn], marks: Marks) -> None:
        is_paired = self.opening_paired and PAIRED in turns[0].question
        opening = system or (self.opening_paired if is_paired else self.opening)
        script.control(marks.bos)
        script.context(opening + self.gap if opening else "")
        for index, (question, answer) in enumerate(turns):
            script.context((self.between if index else "") + self.before + question + self.after)
            if answer is not None:
                script.answer(answer.text, learn=answer.is_learned, end=marks.eos)

    def stops(self, marks: Marks) -> tuple[str, ...]:
        return super().stops(marks) + ((self.stop,) if self.stop else ())

    @property
    def text(self) -> str:
        paired = (
            Message(role="user", text="{user1}" + PAIRED + "{input1}"),
            Message(role="assistant", text="{answer1}"),
        )
        return specimen_text(self, [*SPECIMENS, paired] if self.opening_paired else SPECIMENS)

    @property
    def chat_template(self) -> str:
        opening = _literal(self.opening)
        if self.opening_paired:
            paired = f"{_literal(PAIRED)} in turns[0]['content']"
            opening = f"({_literal(self.opening_paired)} if {paired} else {opening})"
        between = f"{{% if not loop.first %}}{{{{ {_literal(self.between)} }}}}{{% endif %}}" if self.between else ""
        return (
            "{%- set system = messages[0]['content'] if messages[0]['role'] == 'system' else '' %}"
            "{%- set turns = messages[1:] if messages[0]['role'] == 'system' else messages %}"
            f"{{%- set opening = system or {opening} %}}"
            "{{ bos_token }}"
            f"{{%- if opening %}}{{{{ opening + {_literal(self.gap)} }}}}{{% endif %}}"
            "{%- for message in turns %}"
            f"{{%- if message['role'] == 'user' %}}{between}"
            f"{{{{ {_literal(self.before)} + message['content'] + {_literal(self.after)} }}}}"
            "{%- else %}{{ message['content'] + eos_token }}{% endif %}"
            "{%- endfor %}"
        )


def _literal(text: str) -> str:
    """``text`` as a Jinja string; JSON's escapes are a subset of Jinja's."""
    return json.dumps(text, ensure_ascii=False)
