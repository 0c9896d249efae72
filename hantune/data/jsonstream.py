"""JSON as it comes: one value from a line, or the values of a long array one after another in bounded memory.

orjson reads what is right. What it refuses is read again by the standard library, which takes NaN (as null) and raw
control characters; only what is broken for both, or holds half an emoji, is an error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import orjson

from hantune.data.encoding import BROKEN

CHUNK = 1 << 20
LONGEST = 1 << 28
"""Characters after which a value that does not end is given up."""
_BLANK = re.compile(r"[\s,]*")
_TOKEN = re.compile(r'"[^"\\]*(?:\\.?[^"\\]*)*"?|[\[\]{}]', re.DOTALL)
_SCALAR = re.compile(r"[^,\]}\n]+")
_SURROGATE = re.compile("[\ud800-\udfff]|\\\\u[dD][89a-fA-F]")
_CAUSES = {
    "Expecting ',' delimiter": '这里少一个逗号, 或者前面的引号没有写成 \\"',
    "Expecting ':' delimiter": "这里少一个冒号",
    "Expecting property name enclosed in double quotes": "字段名要用双引号",
    "Expecting value": "这里少一个值, 或者用了单引号",
    "Unterminated string starting at": "这里开始的引号没有闭合",
    "Invalid \\escape": "反斜杠要写成两个",
    "Extra data": "一行里有不止一个值",
}


class _Twice(ValueError):
    """A field that an object has twice with two values: which one is meant?"""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these fields.

    Raises: _Twice.
    """
    value = dict(pairs)
    if len(value) < len(pairs):
        for name, inner in pairs:
            if inner != value[name]:
                raise _Twice(name)
    return value


_DECODER = json.JSONDecoder(strict=False, parse_constant=lambda _: None, object_pairs_hook=_object)


class BrokenValue(Exception):
    """Text that is no JSON; the message says in Chinese what is wrong and after which character."""


def parse(raw: bytes | str) -> Any:
    """The value of one whole JSON text.

    Raises: BrokenValue.
    """
    try:
        value = orjson.loads(raw)
        if _fields(value) == (raw.count(b'":') if isinstance(raw, bytes) else raw.count('":')):
            return value
    except orjson.JSONDecodeError:
        pass
    text = (raw.decode("utf-8", "hantune-mark") if isinstance(raw, bytes) else raw).strip()
    try:
        value, end = _DECODER.raw_decode(text)
    except (ValueError, RecursionError) as error:
        raise BrokenValue(_cause(error, text, 0)) from None
    if end < len(text):
        raise BrokenValue(_cause(json.JSONDecodeError("Extra data", text, end), text, 0))
    return whole(value, text)


def _fields(value: Any) -> int:
    """How many fields all objects of a value have. orjson drops one that is there twice; the text has it still."""
    if isinstance(value, dict):
        return len(value) + sum(_fields(item) for item in value.values() if isinstance(item, (dict, list)))
    if isinstance(value, list):
        return sum(_fields(item) for item in value if isinstance(item, (dict, list)))
    return 0


def whole(value: Any, text: str) -> Any:
    """``value`` again, if its text holds no lone surrogate.

    Raises: BrokenValue.
    """
    if _SURROGATE.search(text):
        try:
            orjson.dumps(value)
        except TypeError:
            where = BROKEN.search(text)
            place = f"第 {where.start() + 1} 个字符" if where else "\\ud800 一类的转义"
            raise BrokenValue(f"有残缺的字符 (半个表情或错误的编码): {place}") from None
    return value


def _cause(error: Exception, text: str, start: int) -> str:
    """What a parser said, in Chinese, with the characters around the place."""
    if isinstance(error, RecursionError):
        return "括号套得太深"
    if isinstance(error, _Twice):
        return f"字段 {str(error)[:30]} 写了两次, 不知道该用哪一个"
    if not isinstance(error, json.JSONDecodeError):
        return "有一个长得读不了的数字"
    at = error.pos
    near = text[max(start, at - 12) : at + 12].replace("\n", " ")
    return f"不是完整的 JSON: 第 {at - start + 1} 个字符处 {_CAUSES.get(error.msg, '写错了')} (附近: {near})"


@dataclass(frozen=True, slots=True)
class Element:
    """A value of an array or file: its first line, whether another one shares that line, itself or what is wrong."""

    line: int
    is_alone: bool
    value: Any
    text: str = ""
    error: str | None = None


class Window:
    """A text file seen through a buffer that grows only as far as one value needs."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._ended = False
        self.text = ""
        self.at = 0
        self.line = 1
        self.closed = False

    def more(self) -> bool:
        """Read on; False at the end of the file."""
        if not self._ended:
            chunk = self._file.read(max(CHUNK, len(self.text) - self.at))
            self.text = self.text[self.at :] + chunk
            self.at = 0
            self._ended = not chunk
        return not self._ended

    def move(self, to: int) -> None:
        """Step over the text up to ``to``, counting its lines."""
        self.line += self.text.count("\n", self.at, to)
        self.at = to

    def peek(self) -> str:
        """The next character that is neither blank nor comma, or '' at the end."""
        while True:
            match = _BLANK.match(self.text, self.at)
            self.move(match.end() if match else self.at)
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.more():
                return ""

    def decode(self) -> tuple[Any, str, str | None]:
        """The value here, its text, and what is wrong with it; steps over it either way."""
        while True:
            try:
                value, end = _DECODER.raw_decode(self.text, self.at)
                problem = None
            except (ValueError, RecursionError) as error:
                value, problem = None, _cause(error, self.text, self.at)
                end = min(_end_of_value(self.text, self.at), self._next_start())
            is_sure = end < len(self.text) or len(self.text) - self.at > LONGEST
            if is_sure or not self.more():
                break
        text = self.text[self.at : end]
        self.move(end)
        if problem is None:
            try:
                whole(value, text)
            except BrokenValue as error:
                value, problem = None, str(error)
        return value, text, problem

    def _next_start(self) -> int:
        """Where the next value of a pretty-printed array begins, by its indent; the end of the text if none does.

        Values within this one stand further to the right, or on its line where it is not indented itself.
        """
        line_start = self.text.rfind("\n", 0, self.at) + 1
        indent, goes_on = self.text[line_start : self.at], self.text[self.at + 1 : self.at + 2] not in ("", "\r", "\n")
        if indent.strip() or not (indent or goes_on):
            return len(self.text)
        again = self.text.find(f"\n{indent}{self.text[self.at]}", self.at + 1)
        return again if again >= 0 else len(self.text)

    def elements(self, last_line: int = 0) -> Iterator[Element]:
        """The values from here to the closing bracket (stepped over) or the end of the file.

        ``last_line``: the line of the opening bracket, where there is one.
        """
        while self.peek() not in ("", "]"):
            line = self.line
            value, text, problem = self.decode()
            yield Element(line, line != last_line, value, text, problem)
            last_line = self.line
        self.closed = self.at < len(self.text)
        self.move(self.at + self.closed)


def _end_of_value(text: str, start: int) -> int:
    """Where a value ends by its brackets alone; the end of the text if it does not."""
    if text[start] not in '[{"':
        match = _SCALAR.match(text, start)
        return match.end() if match else start + 1
    depth = 0
    for token in _TOKEN.finditer(text, start):
        mark = token.group()
        if mark in "[{":
            depth += 1
        elif mark in "]}":
            depth -= 1
        elif token.end() == len(text):
            break
        if depth <= 0:
            return token.end()
    return len(text)
