"""The Go template says what our template says, for every template and shape of conversation."""

from __future__ import annotations

import re
from typing import Any

import pytest

from hantune.data.templates import TEMPLATES, Marks, get_template
from hantune.data.types import Message
from hantune.errors import RefusedError
from hantune.models.export.modelfile import go_template, modelfile

CHAT = [
    Message(role="user", text="你好 {{ 1 }}"),
    Message(role="assistant", text="  你好! "),
    Message(role="user", text='说"再见"'),
    Message(role="assistant", text="再见"),
    Message(role="user", text="走了"),
]
SYSTEM = Message(role="system", text="你是医生.")


class Go:
    """What Go's text/template makes of our subset of it, written down a second time from Go's documentation."""

    def __init__(self, source: str, messages: list[Message]) -> None:
        self.tokens = re.split(r"(\{\{.*?\}\})", source)
        self.messages = messages
        self.system = next((m.text for m in messages if m.role == "system"), "")
        self.variables: dict[str, Any] = {}
        self.output: list[str] = []

    def run(self) -> str:
        self._block(0, None, True)
        return "".join(self.output)

    def _block(self, position: int, dot: Message | None, live: bool) -> int:
        """Run from ``position`` to the ``end`` or ``else`` of this block; its position comes back."""
        while position < len(self.tokens):
            token = self.tokens[position]
            if not token.startswith("{{"):
                self.output.append(token if live else "")
                position += 1
                continue
            action = token[2:-2].strip()
            if action == "end" or action.startswith("else"):
                return position
            if action.startswith("if "):
                position = self._branches(position, action.removeprefix("if "), dot, live)
            elif action == "range .Messages":
                inside = position + 1
                for message in self.messages if live else []:
                    position = self._block(inside, message, True)
                if not (live and self.messages):
                    position = self._block(inside, dot, False)
            elif live:
                self._emit(action, dot)
            position += 1
        return position

    def _branches(self, position: int, condition: str, dot: Message | None, live: bool) -> int:
        taken = False
        while True:
            now = live and not taken and self._holds(condition, dot)
            taken = taken or now
            position = self._block(position + 1, dot, now)
            action = self.tokens[position][2:-2].strip()
            if action == "end":
                return position
            condition = action.removeprefix("else").strip().removeprefix("if ") or "true"

    def _holds(self, condition: str, dot: Message | None) -> bool:
        if condition == "true":
            return True
        if condition == ".System":
            return bool(self.system)
        if condition.startswith("$"):
            return bool(self.variables[condition])
        assert dot is not None
        return condition == f'eq .Role "{dot.role}"'

    def _emit(self, action: str, dot: Message | None) -> None:
        if assigned := re.fullmatch(r"(\$\w+) :?= (true|false)", action):
            self.variables[assigned[1]] = assigned[2] == "true"
        elif action == ".System":
            self.output.append(self.system)
        elif action == ".Content":
            assert dot is not None
            self.output.append(dot.text)
        else:
            self.output.append(action.strip('"'))


@pytest.mark.parametrize("bos", ["<s>", ""])
@pytest.mark.parametrize("name", [name for name in TEMPLATES if name != "plain"])
def test_every_template_is_the_same_in_go(name: str, bos: str) -> None:
    marks = Marks(bos=bos)
    template = get_template(name)
    go = go_template(template, marks)
    strips = name in ("llama2", "chinese-alpaca-2", "llama3")  # Jinja's trim, which Go's template has not
    for count in (1, 3, 5):
        for system in ([], [SYSTEM]):
            messages = system + [m if not strips else Message(role=m.role, text=m.text.strip()) for m in CHAT[:count]]
            ours = "".join(s.text for s in template.render(messages, marks).segments).removeprefix(bos)
            assert Go(go.text, messages).run() == ours


def test_a_modelfile_names_the_weights_the_template_and_the_stops() -> None:
    go = go_template(get_template("chatml"), Marks())
    text = modelfile("m-q8_0.gguf", go, ["<|im_end|>", 'a"b\n'], context=2048)
    lines = text.splitlines()
    assert lines[0] == "FROM ./m-q8_0.gguf"
    assert 'PARAMETER stop "<|im_end|>"' in lines
    assert 'PARAMETER stop "a\\"b\\n"' in lines
    assert lines[-1] == "PARAMETER num_ctx 2048"
    assert text.split('TEMPLATE """')[1].split('"""')[0] == go.text


def test_a_template_that_looks_into_contents_is_refused() -> None:
    source = (
        "{% for m in messages %}{{ loop.index }}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    template = get_template("model", chat_template=source)
    with pytest.raises(RefusedError) as caught:
        go_template(template, Marks(specials=("</s>",), variables=()))
    assert caught.value.code == "export.irregular-template"
