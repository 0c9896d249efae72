"""Ollama's Modelfile: any template of ours as a Go template, read off its renderings and proven on them.

A template is rendered with placeholders; what stands around them gives the fixed parts. The Go text built from these is
filled again for conversations of several shapes, and must give exactly what the template gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hantune.data.templates.base import Marks, first_difference
from hantune.data.types import Message
from hantune.errors import RefusedError

SYSTEM, QUESTION, ANSWER = "\ue0a0s\ue0a1", "\ue0a0q{}\ue0a1", "\ue0a0a{}\ue0a1"
"""Placeholders from the private-use area: no template looks into them."""


@dataclass(frozen=True, kw_only=True)
class GoTemplate:
    """The fixed parts of a chat template, in the order in which they appear."""

    plain: str
    """Before the first question when there is no system message."""
    before_system: str
    after_system: str
    after_question: str
    before_answer: str
    """What the model writes itself before the answer: a blank, or nothing."""
    after_answer: str
    """From an answer to the next question."""

    @property
    def text(self) -> str:
        """In Go's ``text/template`` with Ollama's variables; the last message is the question to be answered.

        No action eats the blanks beside it: they belong to the template.
        """
        opening = f"{_literal(self.before_system)}{{{{ .System }}}}{_literal(self.after_system)}"
        return (
            "{{ $more := false }}"
            f"{{{{ if .System }}}}{opening}{{{{ else }}}}{_literal(self.plain)}{{{{ end }}}}"
            "{{ range .Messages }}"
            f'{{{{ if eq .Role "user" }}}}{{{{ if $more }}}}{_literal(self.after_answer)}{{{{ end }}}}'
            f"{{{{ .Content }}}}{_literal(self.after_question)}"
            '{{ $more = true }}{{ else if eq .Role "assistant" }}'
            f"{_literal(self.before_answer)}{{{{ .Content }}}}{{{{ end }}}}"
            "{{ end }}"
        )

    def fill(self, system: str, questions: Sequence[str], answers: Sequence[str]) -> str:
        """What Ollama makes of a conversation; one more question than answers."""
        text = self.before_system + system + self.after_system if system else self.plain
        for number, question in enumerate(questions):
            if number:
                text += self.before_answer + answers[number - 1] + self.after_answer
            text += question + self.after_question
        return text


def go_template(template: Any, marks: Marks) -> GoTemplate:
    """The Go template that renders as ``template`` does, without the BOS that Ollama puts before it.

    Raises: RefusedError ``export.irregular-template``.
    """
    whole = _render(template, marks, SYSTEM, 2)
    before, rest = whole.split(SYSTEM)
    between = _cut(rest, [QUESTION.format(0), ANSWER.format(0), QUESTION.format(1)])
    plain = _cut(_render(template, marks, "", 1), [QUESTION.format(0)])
    if between is None or plain is None:
        raise _irregular(template, whole)
    after_system, to_answer, after_answer, after_question = between
    found = GoTemplate(
        plain=plain[0],
        before_system=before,
        after_system=after_system,
        after_question=after_question,
        before_answer=to_answer.removeprefix(after_question),
        after_answer=after_answer,
    )
    for system, count in (("", 1), ("", 2), ("", 3), (SYSTEM, 1), (SYSTEM, 2), (SYSTEM, 3)):
        questions = [QUESTION.format(number) for number in range(count)]
        answers = [ANSWER.format(number) for number in range(count - 1)]
        wanted, made = _render(template, marks, system, count), found.fill(system, questions, answers)
        if wanted != made:
            raise _irregular(template, wanted[first_difference(wanted, made) :])
    return found


def _render(template: Any, marks: Marks, system: str, questions: int) -> str:
    """The text of a conversation of placeholders that ends with a question, its first BOS left out."""
    messages = [Message(role="system", text=system)] if system else []
    for number in range(questions):
        messages.append(Message(role="user", text=QUESTION.format(number)))
        if number < questions - 1:
            messages.append(Message(role="assistant", text=ANSWER.format(number)))
    text = "".join(segment.text for segment in template.render(messages, marks).segments)
    return text.removeprefix(marks.bos) if marks.bos else text


def _cut(text: str, placeholders: Sequence[str]) -> list[str] | None:
    """What stands before, between and behind the placeholders; None where one is missing or doubled."""
    parts = []
    for placeholder in placeholders:
        if text.count(placeholder) != 1:
            return None
        before, text = text.split(placeholder)
        parts.append(before)
    return [*parts, text]


def _literal(text: str) -> str:
    """Fixed text inside a Go template, where two braces would open an action."""
    return text.replace("{{", '{{ "{{" }}')


def _irregular(template: Any, where: str) -> RefusedError:
    return RefusedError(
        "export.irregular-template",
        f"模板 {template.name} 写不成 Ollama 的样子: 它的文字会随内容或轮数变化 ({where[:40]!r})",
        hint="用 --to gguf (里面带着 Jinja 模板), 或用 --to vllm",
    )


def modelfile(source: str, go: GoTemplate, stops: Sequence[str], *, context: int | None) -> str:
    """The text of a Modelfile for the weights in ``source`` (a file or folder beside it)."""
    lines = [f"FROM ./{source}", "", f'TEMPLATE """{go.text}"""', ""]
    lines += [f'PARAMETER stop "{_quoted(stop)}"' for stop in stops]
    if context:
        lines.append(f"PARAMETER num_ctx {context}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
