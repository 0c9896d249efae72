"""The prompt templates by name. To add one: a file here with its instance, a line in ``TEMPLATES``, its golden text in
``tests/data/test_templates.py`` and its line in ``docs/reference/templates.md``.
"""

from __future__ import annotations

import difflib
from dataclasses import replace

from hantune.data.templates.alpaca import ALPACA, ALPACA_LEGACY, ALPACA_SPACE
from hantune.data.templates.base import Marks, Template
from hantune.data.templates.belle import BELLE, BELLE_V2
from hantune.data.templates.chatml import CHATML
from hantune.data.templates.chatml import START as CHATML_START
from hantune.data.templates.flagalpha import FLAGALPHA
from hantune.data.templates.huatuo import HUATUO_MED, HUATUO_QA
from hantune.data.templates.jinja import JinjaTemplate
from hantune.data.templates.llama2 import CHINESE_ALPACA_2, LLAMA2
from hantune.data.templates.llama3 import LLAMA3
from hantune.data.templates.llama3 import START as LLAMA3_START
from hantune.data.templates.plain import PLAIN
from hantune.data.templates.samsum import SAMSUM
from hantune.errors import ConfigError, RefusedError

__all__ = ["MODEL", "TEMPLATES", "Marks", "Template", "get_template", "restore_template"]

MODEL = "model"
"""The name of a model's own chat template."""

TEMPLATES: dict[str, Template] = {
    template.name: template
    for template in (
        LLAMA2,
        LLAMA3,
        CHATML,
        BELLE,
        BELLE_V2,
        FLAGALPHA,
        ALPACA,
        ALPACA_LEGACY,
        ALPACA_SPACE,
        HUATUO_MED,
        HUATUO_QA,
        SAMSUM,
        CHINESE_ALPACA_2,
        PLAIN,
    )
}
FAMILIES = {"llama": "llama2", "mistral": "llama2", "bloom": "belle"}
"""What ``auto`` takes for a model without a chat template, by ``model_type``; others get chatml."""


def get_template(
    name: str,
    *,
    chat_template: str | None = None,
    model_type: str | None = None,
    system: str | None = None,
    marks: Marks | None = None,
) -> Template:
    """The template called ``name``; ``system`` becomes its default system prompt.

    ``auto`` is the model's own ``chat_template``, else what fits its control tokens (``marks``) or family;
    ``model`` is the model's own and nothing else; ``llama3`` prefers it to the one built in.

    Raises: ConfigError ``template.unknown``, ``template.no-chat-template``; RefusedError ``template.jinja-error``.
    """
    if name in ("auto", "llama3", MODEL) and chat_template:
        return JinjaTemplate(name=MODEL, source=chat_template, system=system)
    if name == "auto":
        name = _by_family(model_type, marks)
    if name == MODEL:
        raise ConfigError(
            "template.no-chat-template",
            "这个模型没有自带聊天模板",
            place="template.name",
            hint=f"选一个内置模板: template.name={_by_family(model_type, marks)}",
        )
    if name not in TEMPLATES:
        near = difflib.get_close_matches(name, TEMPLATES, n=1)
        raise ConfigError(
            "template.unknown",
            f"没有叫 {name!r} 的模板" + (f", 是不是 {near[0]}?" if near else ""),
            place="template.name",
            hint="可用: auto model " + " ".join(TEMPLATES),
        )
    template = TEMPLATES[name]
    return template if system is None else replace(template, system=system)


def _by_family(model_type: str | None, marks: Marks | None) -> str:
    """The name of the built-in template that suits a model without a chat template."""
    specials = marks.specials if marks else ()
    if LLAMA3_START in specials:
        return LLAMA3.name
    if CHATML_START in specials:
        return CHATML.name
    return FAMILIES.get(model_type or "", CHATML.name)


def restore_template(name: str, text: str, system: str | None) -> Template:
    """The template that an adapter was trained with, from what ``hantune.json`` holds.

    Raises: RefusedError ``template.changed`` when this version renders ``name`` in another way.
    """
    if name not in TEMPLATES:
        return JinjaTemplate(name=name, source=text, system=system)
    template = replace(TEMPLATES[name], system=system)
    if template.text != text:
        raise RefusedError(
            "template.changed",
            f"适配器训练时的模板 {name} 和这个版本的写法不同",
            place="hantune.json",
            hint="装回训练时的 hantune 版本 (hantune.json 的 versions), 或用现在的模板重新训练",
        )
    return template
