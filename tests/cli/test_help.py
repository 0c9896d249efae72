"""Help pages: Chinese, aligned, with an example; no English of typer left."""

from __future__ import annotations

import importlib
import re

import pytest
import typer

from hantune.cli import VERBS, main
from hantune.cli.help import Page, columns

ENGLISH = re.compile(r"Usage|Options|Arguments|Commands|Show this message|required|default:|OPTIONS|COMMAND|<\w+")


def pages() -> list[list[str]]:
    """The words of every command: verbs, groups, and the commands in them."""
    found: list[list[str]] = [[]]
    for verb, (module, _) in VERBS.items():
        command = typer.main.get_command(importlib.import_module(module).app)
        found += [[verb], *([verb, name] for name in getattr(command, "commands", {}))]
    return found


@pytest.mark.parametrize("words", pages(), ids=lambda words: " ".join(words) or "hantune")
def test_help_is_chinese_and_fits_a_gbk_console(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "--help"]) == 0
    page = capsys.readouterr().out
    assert page.startswith(f"用法: {' '.join(['hantune', *words])} ")
    assert not ENGLISH.search(page)
    assert "显示这份说明" in page
    page.encode("gbk")


@pytest.mark.parametrize(
    "words",
    [words for words in pages() if words and words not in (["data"], ["model"], ["config"], ["report"])],
    ids=" ".join,
)
def test_every_command_shows_an_example_of_itself(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main([*words, "--help"])
    assert f"例子:  hantune {' '.join(words)} " in capsys.readouterr().out


def test_columns_are_aligned_where_characters_are_wide() -> None:
    page = Page(80)
    page.write_dl([("文件夹 <path>", "甲 [required]"), ("--seed <int range>", "乙  [default: 0; x>=0]")])
    first, second = page.text().splitlines()
    assert columns(first[: first.index("甲")]) == columns(second[: second.index("乙")])
    assert "文件夹 " in first
    assert "<" not in first
    assert second.endswith("--seed N  乙  [默认 0; 至少 0]")
