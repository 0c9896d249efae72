"""The sandbox in which foreign Jinja chat templates run, with what transformers offers them.

Source: transformers 5, ``utils/chat_template_utils.py`` (``trim_blocks``, ``lstrip_blocks``, loop controls,
``raise_exception``, ``strftime_now``, ``tojson``, ``{% generation %}``).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from hantune.data.templates.base import Marks
from hantune.errors import RefusedError

SPAN_START, SPAN_END = "\U0010fff0", "\U0010fff1"
"""Private-use characters that the ``{% generation %}`` tag leaves around what it holds."""
NOW = datetime.now()
"""One date for the whole process: a prompt and its training text must not differ by midnight."""


class GenerationTag(Extension):
    """``{% generation %} ... {% endgeneration %}``: its content between ``SPAN_START`` and ``SPAN_END``."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_mark"), [], [], body).set_lineno(line)

    def _mark(self, caller: Callable[[], str]) -> str:
        return f"{SPAN_START}{caller()}{SPAN_END}"


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals.update(raise_exception=_raise, strftime_now=NOW.strftime)
    return environment


@lru_cache(maxsize=64)
def compile_template(source: str) -> jinja2.Template:
    """The compiled template.

    Raises: RefusedError ``template.jinja-error`` with the line of the mistake.
    """
    try:
        return _environment().from_string(source)
    except jinja2.TemplateSyntaxError as error:
        raise _refusal(f"第 {error.lineno} 行写错了: {error.message}") from error


def run_template(
    source: str, roles: Sequence[str], contents: Sequence[str], marks: Marks, *, add_generation_prompt: bool
) -> str:
    """The rendered text.

    Raises: RefusedError ``template.jinja-error`` when the template raises (roles it does not know, say).
    """
    messages = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)]
    variables = {"bos_token": marks.bos, "eos_token": marks.eos, **dict(marks.variables)}
    try:
        return compile_template(source).render(
            messages=messages, tools=None, documents=None, add_generation_prompt=add_generation_prompt, **variables
        )
    except (jinja2.TemplateError, TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise _refusal(f"{error} (消息顺序: {' '.join(roles)})") from error


def _refusal(message: str) -> RefusedError:
    return RefusedError(
        "template.jinja-error",
        f"模型自带的聊天模板不能用在这里: {message}",
        hint="换一个内置模板, 例如 template.name=chatml (列表见 docs/reference/templates.md)",
    )
