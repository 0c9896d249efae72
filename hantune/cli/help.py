"""Help pages in Chinese, aligned where a character takes two columns. typer has no switch for either."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any
from unicodedata import east_asian_width

from typer.core import TyperCommand, TyperGroup

OPTIONS, COMMAND = "[选项]", "命令 ..."
HEADINGS = {"Arguments": "参数", "Options": "选项", "Commands": "命令"}
KINDS = {"path": "PATH", "str": "TEXT", "int": "N", "int range": "N", "float": "X", "float range": "X"}
"""typer's names for kinds of values -> how other tools of this field write them."""
PHRASES = (
    (r"^Show this message and exit\.$", "显示这份说明"),
    (r"\[required\]$", "[必填]"),
    (r"; required\]$", "; 必填]"),
    (r"\[default: ", "[默认 "),
    (r"x>=(\S+?)(?=[;\]])", r"至少 \1"),
    (r"([\d.]+)<=x<=([\d.]+)", r"\1 到 \2"),
)
"""What typer writes behind an option's own words -> what is said instead."""


def columns(text: str) -> int:
    """How many columns a terminal needs for ``text``; Han characters and their punctuation take two."""
    return sum(2 if east_asian_width(character) in "WF" else 1 for character in text)


class Page:
    """A help page as it grows: what typer's commands write to, laid out without breaking lines inside a command."""

    def __init__(self, width: int) -> None:
        self.width = width
        self._lines: list[str] = []

    def write_usage(self, command: str, arguments: str = "") -> None:
        """``用法: hantune train [选项] RUN.yaml``."""
        self._lines.append(f"用法: {command} {re.sub(r'[{}]', '', arguments)}")

    def write_paragraph(self) -> None:
        """An empty line."""
        self._lines.append("")

    def write_text(self, text: str) -> None:
        """Lines as they stand in the docstring."""
        self._lines += [f"  {line}".rstrip() for line in text.splitlines()]

    def write_dl(self, rows: Sequence[tuple[str, str]]) -> None:
        """Two columns: the names, and what they mean."""
        table = [(_name(first), _meaning(second)) for first, second in rows]
        width = max(columns(first) for first, _ in table)
        self._lines += [f"  {first}{' ' * (width - columns(first))}  {second}" for first, second in table]

    def indentation(self) -> Page:
        """Everything is indented alike."""
        return self

    def section(self, name: str) -> Page:
        """An empty line and a heading."""
        self._lines += ["", f"{HEADINGS.get(name, name)}:"]
        return self

    def __enter__(self) -> Page:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def text(self) -> str:
        """The whole page."""
        return "\n".join(self._lines)


def _name(text: str) -> str:
    """An option or argument without typer's own notation: ``--seed <int range>`` -> ``--seed N``."""
    text = re.sub(r" <list\[\w+\]>$", "", text)
    if not text.startswith("-"):  # an argument has a name of its own
        return re.sub(r" <[\w ]+>$", "", text)
    return re.sub(r"<([\w ]+)>$", lambda found: KINDS.get(found[1], found[1].upper()), text)


def _meaning(text: str) -> str:
    for pattern, said in PHRASES:
        text = re.sub(pattern, said, text)
    return text


class Command(TyperCommand):
    """A command whose help is a ``Page``."""

    def get_help(self, ctx: Any) -> str:
        return _help_of(self, ctx)


class Group(TyperGroup):
    """A group whose help is a ``Page``."""

    def get_help(self, ctx: Any) -> str:
        return _help_of(self, ctx)


def _help_of(command: Any, context: Any) -> str:
    page = Page(context.terminal_width or 100)
    command.format_help(context, page)
    return page.text()
