"""Strings are found where a JSON parser finds them, and lines that hold anything else are named."""

from __future__ import annotations

import json

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hantune.data.strings import Characters, is_text, plain_strings, unescaped
from tests.laws import examples

PIECES = (
    '["',
    '"',
    '","',
    '", "',
    '"]',
    "[",
    "]",
    ",",
    "\\",
    "\\n",
    " ",
    "\t",
    "\r",
    "你",
    "a",
    "\x0b",
    '{"a": ',
    "[]",
    "7",
)
texts = st.lists(st.text(max_size=5), min_size=1, max_size=4).map(lambda each: json.dumps(each, ensure_ascii=False))
lines = st.lists(texts | st.lists(st.sampled_from(PIECES), max_size=9).map("".join), min_size=1, max_size=6)


def parsed(line: str) -> list[str] | None:
    """The strings of a line that is a list of them without escapes; None for any other."""
    try:
        value = orjson.loads(line.encode())
    except (orjson.JSONDecodeError, UnicodeEncodeError):
        return None
    is_plain = isinstance(value, list) and value and all(isinstance(each, str) for each in value)
    return value if is_plain and "\\" not in line else None


@given(lines)
@examples(100, 500)
def test_strings_are_what_a_parser_finds(given: list[str]) -> None:
    plain, others, strings = plain_strings("".join(line + "\n" for line in given).encode())
    expected = [parsed(line) for line in given]
    good = [number for number, each in enumerate(expected) if each is not None]
    assert strings is None or plain.tolist() == good
    assert strings is not None or not good
    if strings is None:
        return
    assert set(others.tolist()) == {number for number, line in enumerate(given) if number not in good and line.strip()}
    found = [bytes(strings.array[a + 1 : b]).decode() for a, b in zip(strings.opens, strings.closes, strict=True)]
    assert found == [text for each in expected if each is not None for text in each]
    assert strings.counts.tolist() == [len(expected[number] or ()) for number in good]


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters='"\\'), min_size=1, max_size=30))
def test_characters_have_their_code_points(text: str) -> None:
    _, _, strings = plain_strings(orjson.dumps([text]) + b"\n")
    assert strings is not None
    found = Characters.of(strings)
    looked_up = [ord(letter) for letter in text if ord(letter) > 0x7F and not 0x4000 <= ord(letter) < 0xA000]
    assert found.points.tolist() == looked_up


def test_escapes_are_written_out_where_they_are_common() -> None:
    data = b'["\\u4f60"]\n["\\u597d", "a\\u"]\n["\\ud800"]\n'
    assert unescaped(data).decode() == '["你"]\n["\\u597d", "a\\u"]\n["\\ud800"]\n'
    rare = b'["\\u4f60"]\n' + b'["a"]\n' * 20
    assert unescaped(rare) == rare


@pytest.mark.parametrize(
    ("data", "is_good"), [("你好".encode(), True), ("你好".encode("gb18030"), False), (b"\xed\xa0\x80", False)]
)
def test_utf8_is_told(data: bytes, is_good: bool) -> None:
    assert is_text(data) == is_good


def test_owners() -> None:
    _, _, strings = plain_strings(b'["ab", "c"]\n')
    assert strings is not None
    assert strings.owners(np.array([2, 3, 8])).tolist() == [0, 0, 1]
