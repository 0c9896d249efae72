"""typer's complaints about a command line, in the user's language and with the nearest right word."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from hantune.errors import ConfigError

SENTENCES = (
    (r"No such command '(.+?)'", "没有这个命令: {0}"),
    (r"No such option:? '?(.+?)'?(?:[ .].*)?$", "没有这个选项: {0}"),
    (r"Missing (?:argument|option|parameter):? ?'?(.*?)'?\.?$", "缺少参数: {0}"),
    (r"Got unexpected extra arguments? ?(?:\(s\))? ?\((.+)\)", "多余的参数: {0}"),
    (r"Option '(.+?)' requires an argument", "选项 {0} 后面要有一个值"),
    (r"Option '(.+?)' does not take a value", "选项 {0} 后面不带值"),
    (r"Invalid value for '?(.+?)'?: (.+)", "{0} 的值不对: {1}"),
)
"""Patterns of click's English (as typer ships it) and what is said instead."""

VALUES = (
    (r"Input should be greater than or equal to (\S+)", "不能小于 {0}"),
    (r"Input should be less than or equal to (\S+)", "不能大于 {0}"),
    (r"Input should be greater than (\S+)", "要大于 {0}"),
    (r"Input should be less than (\S+)", "要小于 {0}"),
    (r"Input should be a valid integer.*|.*is not a valid int.*", "要一个整数"),
    (r"Input should be a (?:valid|finite) number.*|.*is not a valid (?:float|number).*", "要一个数"),
    (r"path '(.+)' is not readable\.", "没有权限读 {0}"),
)
"""The same for what is wrong with a value (pydantic's words)."""


def usage_error(error: Any, argv: Sequence[str] = ()) -> ConfigError:
    """The complaint as ``cli.usage``, with the command whose ``--help`` tells more."""
    message = error.format_message()
    context = getattr(error, "ctx", None)
    path = context.command_path if context else " ".join(["hantune", *_verb(argv)])
    group = context.command if context else None
    verbs = group.list_commands(context) if group is not None and hasattr(group, "list_commands") else []
    if "Missing command" in message:
        return ConfigError("cli.usage", f"后面要跟一个子命令: {', '.join(verbs)}", hint=f"{path} --help")
    for pattern, sentence in SENTENCES:
        found = re.search(pattern, message, re.DOTALL)
        if found:
            text = sentence.format(*(_value(words.strip()) for words in found.groups()))
            return ConfigError("cli.usage", text + _near(found.group(1), error, verbs), hint=f"{path} --help")
    return ConfigError("cli.usage", message, hint=f"{path} --help")


def _verb(argv: Sequence[str]) -> list[str]:
    """The words before the first option, at most a verb and its part: ``data prepare`` of ``data prepare --out``."""
    words = list(itertools.takewhile(lambda word: not word.startswith("-"), argv))
    return words[: 2 if words[:1] in (["data"], ["model"], ["config"]) else 1]


def _value(words: str) -> str:
    """What is wrong with a value, in Chinese; other words as they are."""
    for pattern, sentence in VALUES:
        if found := re.fullmatch(pattern, words, re.DOTALL):
            return sentence.format(*found.groups())
    return words


def _near(word: str, error: Any, verbs: list[str]) -> str:
    """``  是不是 WORD?`` where something close exists."""
    possible = list(getattr(error, "possibilities", None) or []) or get_close_matches(word, verbs, n=1)
    return f"  是不是 {' 或 '.join(possible)}?" if possible else ""
