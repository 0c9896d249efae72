"""Every error code has its page, every page its code, and no page knows this machine."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "docs" / "troubleshooting"
CODE = re.compile(r"[a-z]+\.[a-z][a-z0-9-]*")
ABSOLUTE = re.compile(r"(?<![\w.:/~$}>])/(?:home|root|work|tmp|mnt|opt|var|usr|Users|data)/\S*|\b[C-Z]:\\\w+")


@cache
def trees() -> dict[str, ast.Module]:
    """Every module of the package, parsed."""
    return {
        path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
        for path in sorted((ROOT / "hantune").rglob("*.py"))
    }


def name_of(call: ast.Call) -> str:
    """``DataError`` of ``DataError(...)`` and ``errors.DataError(...)``."""
    return getattr(call.func, "id", "") or getattr(call.func, "attr", "")


@cache
def makers() -> frozenset[str]:
    """Functions of the package that take an error code as their argument ``code``."""
    return frozenset(
        node.name
        for tree in trees().values()
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and any(argument.arg == "code" for argument in [*node.args.args, *node.args.kwonlyargs])
    )


def texts(node: ast.expr) -> Iterator[str]:
    """The literal texts an argument may be: ``"a.b"``, or both of ``"a.b" if x else "a.c"``."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from texts(node.body)
        yield from texts(node.orelse)


def used_codes() -> dict[str, str]:
    """Code -> ``file:line`` of one place that raises it. Reasons of rejected rows are no errors and have no page."""
    used: dict[str, str] = {}
    for file, tree in trees().items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or name_of(node) == "Reject":
                continue
            if name_of(node).endswith("Error") or name_of(node) in makers():
                arguments = node.args[:1] + [word.value for word in node.keywords if word.arg == "code"]
                for text in (text for argument in arguments for text in texts(argument)):
                    if CODE.fullmatch(text):
                        used.setdefault(text, f"{file}:{node.lineno}")
    return used


def pages() -> list[Path]:
    return sorted(path for path in PAGES.glob("*.md") if path.stem != "README")


def test_codes_are_found_at_all() -> None:
    assert {"config.unknown-key", "run.in-use", "run.interrupted", "cli.usage"} <= set(used_codes())


def test_every_error_code_has_a_page() -> None:
    missing = {code: place for code, place in used_codes().items() if not (PAGES / f"{code}.md").is_file()}
    assert not missing, "no page in docs/troubleshooting:\n" + "\n".join(f"{c}  ({p})" for c, p in missing.items())


def test_every_page_is_about_a_code_that_exists() -> None:
    literals = {
        node.value
        for tree in trees().values()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    orphans = [path.name for path in pages() if path.stem not in literals]
    assert not orphans, f"pages without a code in hantune/: {', '.join(orphans)}"


@pytest.mark.parametrize("path", pages(), ids=lambda path: path.stem)
def test_a_page_says_code_cause_and_way_out(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# "), "the first line is the message, as a heading"
    for words in (path.stem, "为什么", "怎么办"):
        assert words in text, f"{path.name} lacks {words}"


def test_the_index_lists_every_page_under_its_heading() -> None:
    spec = importlib.util.spec_from_file_location("index", ROOT / "tools" / "make_troubleshooting_index.py")
    assert spec
    assert spec.loader
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    index = (PAGES / "README.md").read_text(encoding="utf-8")
    assert index == tool.page(), "python tools/make_troubleshooting_index.py"
    assert set(re.findall(r"\]\(([^)]+)\)", index)) == {path.name for path in pages()}


def test_links_between_pages_lead_somewhere() -> None:
    dead = [
        f"{path.name}: {target}"
        for path in pages()
        for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8"))
        if not (path.parent / target).exists()
    ]
    assert not dead, "\n".join(dead)


def test_no_page_knows_an_absolute_path() -> None:
    found = [
        f"{path.relative_to(ROOT).as_posix()}:{number}: {match[0]}"
        for path in [*sorted((ROOT / "docs").rglob("*.md")), *sorted(ROOT.glob("*.md"))]
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if (match := ABSOLUTE.search(line))
    ]
    assert not found, "\n".join(found)
