"""JSON comes out the same whether parsed whole or streamed, with the line of every element; nothing crashes."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hantune.data import jsonstream
from hantune.data.jsonstream import BrokenValue, Window, parse

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)


def elements(text: str) -> list[jsonstream.Element]:
    window = Window(io.StringIO(text, newline=""))
    assert window.peek() == "["
    window.move(window.at + 1)
    return list(window.elements(1))


@given(st.lists(VALUES, max_size=6), st.sampled_from([None, 0, 2, "\t"]), st.booleans(), st.integers(1, 40))
def test_streamed_elements_are_those_of_the_whole_array(
    values: list[Any], indent: Any, ascii: bool, chunk: int
) -> None:
    text = json.dumps(values, indent=indent, ensure_ascii=ascii)
    original, jsonstream.CHUNK = jsonstream.CHUNK, chunk
    try:
        found = elements(text)
    finally:
        jsonstream.CHUNK = original
    assert [element.value for element in found] == values
    assert all(element.error is None for element in found)


@given(st.lists(st.dictionaries(TEXTS, VALUES, min_size=1, max_size=3), min_size=1, max_size=5))
def test_the_line_of_an_element_is_where_it_begins(values: list[Any]) -> None:
    text = json.dumps(values, indent=1, ensure_ascii=False)
    lines = text.split("\n")
    starts = [number for number, line in enumerate(lines, 1) if line == " {"]
    assert [element.line for element in elements(text)] == starts
    assert all(element.is_alone for element in elements(text))


def test_elements_on_one_line_are_not_alone() -> None:
    assert [(e.line, e.is_alone) for e in elements('[{"a": 1}, {"a": 2},\n{"a": 3}]')] == [
        (1, False),
        (1, False),
        (2, True),
    ]


def test_a_broken_element_is_passed_over_and_the_next_is_found() -> None:
    text = '[\n  {"a": 1},\n  {"a": oops},\n  {"a": "no end},\n  {"a": 4},\n  {"a" 5}\n]'
    found = elements(text)
    assert [(e.line, e.value) for e in found] == [(2, {"a": 1}), (3, None), (4, None), (5, {"a": 4}), (6, None)]
    assert "第 7 个字符" in (found[1].error or "")
    assert "冒号" in (found[4].error or "")


def test_a_torn_file_gives_what_is_whole() -> None:
    window = Window(io.StringIO('{"a": 1}, {"a": 2}, {"a": "torn'))
    found = list(window.elements())
    assert [e.value for e in found] == [{"a": 1}, {"a": 2}, None]
    assert found[2].error
    assert not window.closed


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": NaN, "b": Infinity}', {"a": None, "b": None}),
        ('{"a": 1, "a": 1}', {"a": 1}),
        ('{"a": "他说 \\"b\\": 好"}', {"a": '他说 "b": 好'}),
        ('{"a": "x\ty\x01"}', {"a": "x\ty\x01"}),
        ('{"a": "\\ud83d\\ude00"}', {"a": "\U0001f600"}),
        (' {"a": 1} \r\n', {"a": 1}),
        ('{"a": "\u2028"}', {"a": "\u2028"}),
    ],
)
def test_what_programs_really_write_is_read(text: str, value: Any) -> None:
    assert parse(text) == value
    assert parse(text.encode()) == value
    assert [element.value for element in elements(f"[{text}]")] == [value]


@pytest.mark.parametrize(
    "raw",
    [
        b'{"a": "\\ud83d"}',
        b'{"a": "\xe4\xbd"}',
        b"{'a': 1}",
        b'{"a": 1} {"a": 2}',
        b'{"a": 1, "a": 2}',
        b'{"m": [{"role": "user", "role": "assistant"}]}',
        b'{"a": 1',
        b'{"a": "\\x"}',
        b"[" * 100_000,
        b"1" * 10_000,
        b"\x00",
        b"",
    ],
)
def test_broken_lines_say_so_in_chinese(raw: bytes) -> None:
    with pytest.raises(BrokenValue, match="不是完整的 JSON|残缺的字符|写了两次|括号套得太深|读不了的数字"):
        parse(raw)


def test_hostile_elements_do_not_stop_the_array() -> None:
    nested = "[" * 50_000 + "]" * 50_000
    found = elements(f'[{nested}, {{"a": "\\ud800"}}, {"9" * 9000}, {{"a": 1, "a": 2}}, {{"a": 1}}]')
    assert [bool(element.error) for element in found] == [True, True, True, True, False]


def test_a_long_line_is_one_value() -> None:
    text = json.dumps([{"a": "好" * 3_000_000}], ensure_ascii=False)
    assert len(elements(text)[0].value["a"]) == 3_000_000
