"""typer's complaints about a command line, in the user's language and with the nearest right word."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import Any

from hantune.errors import ConfigError

SENTENCES = (
    (r"No such command '(.+?)'", "没有这个命令: {0}"),
    (r"No such option:? '?(.+?)'?(?:[ .].*)?$", "没有这个选项: {0}"),
    (r"Missing (?:argument|option|parameter):? ?(.*?)\.?$", "缺少参数: {0}"),
    (r"Got unexpected extra arguments? ?(?:\(s\))? ?\((.+)\)", "多余的参数: {0}"),
    (r"Option '(.+?)' requires an argument", "选项 {0} 后面要有一个值"),
    (r"Invalid value for (.+?): (.+)", "{0} 的值不对: {1}"),
)
"""Patterns of click's English (as typer ships it) and what is said instead."""


def usage_error(error: Any) -> ConfigError:
    """The complaint as ``cli.usage``, with the command whose ``--help`` tells more."""
    message = error.format_message()
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "hantune"
    group = context.command if context else None
    verbs = group.list_commands(context) if group is not None and hasattr(group, "list_commands") else []
    if "Missing command" in message:
        return ConfigError("cli.usage", f"后面要跟一个子命令: {', '.join(verbs)}", hint=f"{path} --help")
    for pattern, sentence in SENTENCES:
        found = re.search(pattern, message, re.DOTALL)
        if found:
            text = sentence.format(*(group.strip() for group in found.groups()))
            return ConfigError("cli.usage", text + _near(found.group(1), error, verbs), hint=f"{path} --help")
    return ConfigError("cli.usage", message, hint=f"{path} --help")


def _near(word: str, error: Any, verbs: list[str]) -> str:
    """ ``  是不是 WORD?`` where something close exists."""
    possible = list(getattr(error, "possibilities", None) or []) or get_close_matches(word, verbs, n=1)
    return f"  是不是 {' 或 '.join(possible)}?" if possible else ""
