"""YAML 1.2 or JSON text as entries with line numbers: every key counts, also one that is written twice.

The node tree of ruamel.yaml is read instead of its dictionaries, because those forget lines and duplicates.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from hantune.errors import ConfigError

DEEPEST = 4
"""Lists in lists beyond this are refused; it also stops an alias that contains itself."""

UNREADABLE = (YAMLError, ValueError, LookupError, RecursionError)
"""What ruamel.yaml raises on broken text; the last three slip through from values such as ``!!bool x``."""

CAUSES = {
    "cannot start any token": "这个字符不能放在开头; 值里有特殊字符时给整个值加引号",
    "mapping values are not allowed": "多了一个冒号, 或者缩进没有对齐 (冒号后面要有空格; 值里有冒号时加引号)",
    "could not find expected ':'": "少了冒号, 或冒号后面少了空格",
    "found unexpected end of stream": "引号没有配对",
    "expected <block end>": "缩进没有对齐, 或引号后面还有多余的字",
    "expected '<document start>'": "缩进没有对齐: 各节的名字要顶格写",
    "expected ',' or": "括号没有配对, 或少了逗号",
    "found another document": "一个文件里只能有一份配置 (去掉 --- 这一行)",
    "parsing a flow": "括号没有配对, 或少了逗号",
    "undefined alias": "星号 * 开头的值要加引号",
    "escape": "双引号里的反斜杠 \\ 有特殊含义; 改用单引号, 或不加引号",
    "constructor": "不认识的标记; 感叹号 ! 开头的值要加引号",
}
"""Part of ruamel's message -> what a person did wrong."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One ``key: value``; a nested mapping's value is a tuple of entries. ``line`` counts from 1."""

    key: str
    value: Any
    line: int

    @property
    def is_mapping(self) -> bool:
        return isinstance(self.value, tuple)


def parse_text(text: str, file: str, *, as_json: bool | None = None) -> tuple[Entry, ...]:
    """The top-level entries of a run file, in order; ``file`` is the name in errors, and ``.json`` means JSON.

    Raises: ConfigError ``config.broken-yaml``, ``config.broken-json``, ``config.not-mapping``.
    """
    if file.endswith(".json") if as_json is None else as_json:
        check_json(text, file)
        text = _json_as_yaml(text)
    yaml = YAML(typ="safe", pure=True)
    try:
        node = yaml.compose(text)
        if not isinstance(node, MappingNode):
            raise _not_mapping(node, file)
        return _entries(yaml, node, depth=0)
    except UNREADABLE as error:
        raise _broken(error, text, file) from None


def parse_scalar(text: str) -> Any:
    """The value that YAML gives ``text``: ``0``, ``false``, ``null``, ``2e-4`` and ``[a, b]`` keep their types.

    Raises: ConfigError ``config.broken-yaml``.
    """
    yaml = YAML(typ="safe", pure=True)
    try:
        node = yaml.compose(text)
        return None if node is None else _value(yaml, node, depth=0)
    except UNREADABLE as error:
        raise _broken(error, text, "") from None


def check_json(text: str, file: str) -> Any:
    """What the JSON ``text`` holds.

    Raises: ConfigError ``config.broken-json`` with the line.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", 1)
        raise ConfigError(
            "config.broken-json",
            f"JSON 写法不对 (第 {line} 行附近): 多半是少了或多了逗号, 引号不是英文的, 或括号没有配对",
            place=f"{file}:{line}",
            hint=f"打开 {file} 第 {line} 行改好",
        ) from None


def _json_as_yaml(text: str) -> str:
    """Valid JSON as YAML: tabs, legal only between tokens, become blanks; what YAML calls unprintable is escaped."""
    text = text.replace("\t", " ")
    return "".join(sign if sign.isprintable() or sign in "\r\n" else escaped(sign) for sign in text)


def escaped(character: str) -> str:
    """One character as JSON and YAML both escape it: ``\\u007f``."""
    return f"\\u{ord(character):04x}" if ord(character) < 0x10000 else json.dumps(character)[1:-1]


def _entries(yaml: YAML, node: MappingNode, depth: int) -> tuple[Entry, ...]:
    """The pairs of a mapping node."""
    return tuple(
        Entry(key=str(_value(yaml, key, depth + 1)), value=_value(yaml, value, depth + 1), line=key.start_mark.line + 1)
        for key, value in node.value
    )


def _value(yaml: YAML, node: Node, depth: int) -> Any:
    """A node as a plain value: scalar, list, or tuple of entries for a mapping."""
    if depth > DEEPEST:
        raise ValueError("nested too deep")
    if isinstance(node, MappingNode):
        return _entries(yaml, node, depth)
    if isinstance(node, SequenceNode):
        return [_value(yaml, item, depth + 1) for item in node.value]
    if isinstance(node, ScalarNode) and str(node.tag).endswith((":timestamp", ":merge", ":value")):
        return str(node.value)  # a run named 2026-11-22 is a name, not a day
    value = yaml.constructor.construct_object(node, deep=True)
    if isinstance(value, str):  # JSON writes an emoji as two \u escapes
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return value


def _not_mapping(node: Node | None, file: str) -> ConfigError:
    """An empty file, a list, or one long text."""
    what = "文件是空的" if node is None else "文件里没有 `节: 设置` 这样的内容"
    line = 1 if node is None else node.start_mark.line + 1
    return ConfigError(
        "config.not-mapping", what, place=f"{file}:{line}", hint="hantune init run.yaml 会写一份完整的例子"
    )


def _broken(error: Exception, text: str, file: str) -> ConfigError:
    """ruamel's complaint as line and cause. Its own text is not shown: it quotes the line, which may hold a secret."""
    line = _line(error, text)
    lines = text.splitlines()
    here = lines[line - 1] if line <= len(lines) else ""
    nearby = "".join(lines[max(0, line - 2) : line])
    detail = f"{getattr(error, 'problem', '')} {getattr(error, 'context', '')} {type(error).__name__.lower()}"
    cause = next((cause for part, cause in CAUSES.items() if part in detail), "YAML 写法不对")
    if "\t" in here[: len(here) - len(here.lstrip())]:
        cause = "这一行用制表符 (Tab) 缩进了; YAML 只认空格"
    elif isinstance(error, ReaderError):
        cause = "有一个看不见的控制字符"
    elif not isinstance(error, YAMLError):
        cause = "嵌套太深, 或数字写法不对"
    elif any(sign in nearby for sign in "：\u3000“”"):
        cause = "用了中文的冒号, 引号或空格; 请换成英文的"
    return ConfigError(
        "config.broken-yaml",
        f"第 {line} 行: {cause}" if file else cause,
        place=f"{file}:{line}" if file else None,
        hint=f"打开 {file} 第 {line} 行改好 (每节顶格, 设置缩进两个空格)" if file else "给整个值加上引号再试",
    )


def _line(error: Exception, text: str) -> int:
    """The line (from 1) a person should look at: for an open quote or bracket, the one where it opens."""
    if isinstance(error, ReaderError):
        return text.count("\n", 0, error.position) + 1
    mark = error.problem_mark if isinstance(error, MarkedYAMLError) else None
    context = str(getattr(error, "context", ""))
    if isinstance(error, MarkedYAMLError) and error.context_mark and ("quoted" in context or "flow" in context):
        mark = error.context_mark
    return int(mark.line) + 1 if mark else 1
