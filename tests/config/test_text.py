"""YAML and JSON text as entries with lines; broken text with its line and cause."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hantune.config.text import Entry, check_json, parse_scalar, parse_text
from hantune.errors import ConfigError

SECRET = "s3cr3tvalue"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(-1e9, 1e9) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2),
    max_leaves=4,
)


def refused(text: str, file: str = "run.yaml") -> ConfigError:
    """The error that parsing ``text`` gives."""
    with pytest.raises(ConfigError) as caught:
        parse_text(text, file)
    return caught.value


def test_entries_keep_lines_and_duplicates() -> None:
    assert parse_text("a: 1\n\nb:\n  c: [x, 2e-4]\n  c:\n", "run.yaml") == (
        Entry(key="a", value=1, line=1),
        Entry(key="b", value=(Entry(key="c", value=["x", 2e-4], line=4), Entry(key="c", value=None, line=5)), line=3),
    )


@given(value=st.dictionaries(st.text(max_size=4), JSON, max_size=3), ascii_only=st.booleans())
def test_json_reads_as_json_does(value: dict[str, Any], ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, indent="\t")
    assert check_json(text, "a.json") == value
    assert {entry.key: entry.value for entry in parse_text(text, "a.json")} == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("010", 10),
        ("false", False),
        ("no", "no"),
        ("null", None),
        ("", None),
        ("2e-4", 2e-4),
        ("1E5", 1e5),
        ("[a, 1]", ["a", 1]),
        ("'1'", "1"),
        ("2026-11-22", "2026-11-22"),
        ("12:30", "12:30"),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: object) -> None:
    assert parse_scalar(text) == value
    assert type(parse_scalar(text)) is type(value)


@pytest.mark.parametrize(
    ("text", "line", "cause"),
    [
        ("train:\n\tseed: 8\n", 2, "Tab"),
        ("train:\n  a: 1\n   b: 2\n", 3, "缩进"),
        ("a: b: c\n", 1, "冒号"),
        ("train:\n  a: 'x\n\n\n", 2, "引号"),
        ("train:\n  a: [1,2\nb: 1\n", 2, "括号"),
        ("a: 1\n---\nb: 2\n", 2, "一个文件里只能有一份配置"),
        ("a: @x\n", 1, "不能放在开头"),
        ("a: *x\n", 1, "星号"),
        ('a: "C:\\x"\n', 1, "反斜杠"),
        ("b: 1\na: \x07\n", 2, "控制字符"),
        ("a: &x [*x]\n", 1, "嵌套太深"),
        ("a: " + "[" * 2000, 1, "嵌套太深"),
        ("a: !!python/object:os.system x\n", 1, "标记"),
        ("a: !!bool x\n", 1, ""),
        ("train：\n  seed: 1\n", 2, "中文的冒号"),
    ],
)
def test_broken_yaml_names_line_and_cause(text: str, line: int, cause: str) -> None:
    error = refused(text)
    assert error.code == "config.broken-yaml"
    assert error.place == f"run.yaml:{line}"
    assert cause in error.message


def test_broken_json() -> None:
    error = refused('{"train": {\n "seed": 1,\n}}', "run.json")
    assert (error.code, error.place) == ("config.broken-json", "run.json:3")


@pytest.mark.parametrize(("text", "message"), [("", "空的"), ("# 注释\n", "空的"), ("- a\n", "节"), ("train\n", "节")])
def test_not_a_mapping(text: str, message: str) -> None:
    error = refused(text)
    assert error.code == "config.not-mapping"
    assert message in error.message


def test_broken_text_never_shows_its_lines() -> None:
    error = refused(f"token: '{SECRET}\n")
    assert error.code == "config.broken-yaml"
    assert SECRET not in f"{error.message} {error.hint}"
