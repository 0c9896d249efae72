"""Run configurations in and out: preset < file < ``section.key=value``, and back to YAML with one comment a field."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.representer import RoundTripRepresenter
from ruamel.yaml.tokens import CommentToken

from hantune.config.check import COMMAND_LINE, Findings, overrides_of, raise_problems, require_complete, validate, walk
from hantune.config.fields import sections, settings
from hantune.config.schema import RunConfig
from hantune.config.text import escaped, parse_scalar, parse_text
from hantune.errors import ConfigError
from hantune.paths import quoted

__all__ = [
    "Loaded",
    "as_overrides",
    "dump_config",
    "load_config",
    "preset_names",
    "preset_text",
    "read_text",
    "require_complete",
    "with_values",
]

PRESETS = Path(__file__).parent / "presets"
PLAIN_TEXT = re.compile(r"[\w./][\w./-]*")
"""Texts that need no quotes, unless YAML reads them as another type."""
DEFAULT = "默认"


@dataclass(frozen=True, kw_only=True, slots=True)
class Loaded:
    """A configuration, where each value comes from (默认, 预设 NAME, FILE:LINE, 命令行), and the preset below it."""

    config: RunConfig
    origins: dict[str, str]
    preset: str | None = None


def load_config(path: Path | None, overrides: Sequence[str] = (), preset: str | None = None) -> Loaded:
    """The configuration of a YAML or JSON file under overrides such as ``train.epochs=1`` and over a preset.

    The preset is named by ``preset``, else by an override ``preset=NAME``, else by the file's top-level key ``preset``.

    Raises: ConfigError ``config.missing``, ``config.unreadable``, ``config.broken-yaml``, ``config.broken-json``,
        ``config.not-mapping``, ``config.unknown-preset``; and, all problems at once, ``config.invalid``,
        ``config.secret``, or when there is only one ``config.unknown-key``, ``config.bad-value``,
        ``config.duplicate-key``, ``config.bad-override``, ``config.conflict``.
    """
    problems: list[ConfigError] = []
    from_file: Findings = _read_file(path, problems) if path else {}
    from_command = overrides_of(overrides, problems)
    name, place = _preset(preset, from_command, from_file)
    try:
        from_preset = _read_preset(name, place) if name else {}
    except ConfigError as error:
        problems.append(error)
        from_preset = {}
    found = {**from_preset, **from_file, **from_command}
    found.pop("preset", None)
    config = validate(found, problems)
    raise_problems(problems)
    origins = {key: found[key].origin if key in found else DEFAULT for key in settings()}
    return Loaded(config=config, origins=origins, preset=name)


def _read_file(path: Path, problems: list[ConfigError]) -> Findings:
    """The settings a file holds."""
    return walk(parse_text(read_text(path), str(path)), str(path), problems)


def _preset(asked: str | None, from_command: Findings, from_file: Findings) -> tuple[str | None, str]:
    """The name of the preset and where it is named."""
    if asked is not None:
        return asked, COMMAND_LINE
    finding = from_command.get("preset") or from_file.get("preset")
    return (str(finding.value), finding.place) if finding and finding.value is not None else (None, "")


def _read_preset(name: str, place: str) -> Findings:
    """The settings of a preset."""
    problems: list[ConfigError] = []
    found = walk(parse_text(preset_text(name, place), f"{name}.yaml"), name, problems, origin=f"预设 {name}")
    raise_problems(problems)
    return found


def preset_names() -> tuple[str, ...]:
    """The names that ``preset:`` and ``--preset`` take, sorted."""
    return tuple(sorted(path.stem for path in PRESETS.glob("*.yaml")))


def preset_text(name: str, place: str = COMMAND_LINE) -> str:
    """The YAML of a preset, with its comments.

    Raises: ConfigError ``config.unknown-preset`` with the nearest name.
    """
    names = preset_names()
    if name in names:
        return (PRESETS / f"{name}.yaml").read_text(encoding="utf-8")
    near = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.4)
    raise ConfigError(
        "config.unknown-preset",
        f"没有这个预设 {name}" + (f"; 是不是 {near[0]}?" if near else ""),
        place=place,
        hint=f"可用的预设: {', '.join(names)}",
    )


def read_text(path: Path) -> str:
    """A run file's text: UTF-8 with or without BOM.

    Raises: ConfigError ``config.missing`` with the nearest file names, ``config.unreadable``.
    """
    if path.is_dir():
        inside = path / "config.yaml"
        hint = f"这个文件夹里有一份: {inside}" if inside.is_file() else "给出文件夹里的 YAML 文件"
        raise ConfigError("config.missing", "这是一个文件夹, 不是配置文件", place=str(path), hint=hint)
    if not path.exists():
        raise ConfigError("config.missing", f"没有这个配置文件: {path}", place=str(path), hint=_other_files(path))
    try:
        data = path.read_bytes()
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            "config.unreadable",
            f"第 {line} 行不是 UTF-8 编码 (可能是 GBK 或 UTF-16)",
            place=f"{path}:{line}",
            hint=f"用编辑器另存为 UTF-8, 或者: iconv -f GB18030 -t UTF-8 {quoted(path)} > new.yaml",
        ) from None
    except OSError as error:
        raise ConfigError(
            "config.unreadable", f"读不了这个文件: {error.strerror}", place=str(path), hint="检查文件的权限"
        ) from None


def _other_files(path: Path) -> str:
    """The files beside ``path`` that may have been meant."""
    folder = path.parent
    if "=" in path.name:
        return f"配置文件写在最前面, 改动写在后面: hantune train run.yaml {path}"
    if not folder.is_dir():
        return f"文件夹 {folder} 也不存在; 新建一份: hantune init run.yaml"
    names = [item.name for item in folder.iterdir() if item.suffix in (".yaml", ".yml", ".json") and item.is_file()]
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.3)
    return f"同一个文件夹里有: {', '.join(near)}" if near else f"新建一份: hantune init {quoted(path)}"


def dump_config(config: RunConfig, *, comments: bool = False) -> str:
    """``config`` as YAML in the order of the schema; with ``comments`` each setting has its sentence above it.

    Loading the text gives ``config`` again.
    """
    lines: list[str] = []
    for section, section_class in sections().items():
        if comments:
            lines.append(f"{'' if not lines else chr(10)}# {section_class.__doc__}")
        lines.append(f"{section}:")
        values = getattr(config, section)
        for setting in settings().values():
            if setting.section == section:
                lines += [f"  # {setting.sentence}"] if comments else []
                lines.append(f"  {setting.key}: {write_value(getattr(values, setting.key))}")
    return "\n".join(lines) + "\n"


def as_overrides(values: Mapping[str, Any]) -> list[str]:
    """Dotted names with their values as ``section.key=value`` texts that ``load_config`` reads back unchanged."""
    return [f"{name}={write_value(value)}" for name, value in values.items()]


def write_value(value: Any) -> str:
    """One value as YAML 1.2 on one line."""
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(write_value(item) for item in value) + "]"
    if isinstance(value, str):
        return value if PLAIN_TEXT.fullmatch(value) and parse_scalar(value) == value else _quoted(value)
    return json.dumps(value)


def _quoted(text: str) -> str:
    """A double-quoted text: JSON's escapes are YAML's; what cannot be printed is escaped as well."""
    return "".join(
        character if character.isprintable() else escaped(character)
        for character in json.dumps(text, ensure_ascii=False)
    )


def with_values(text: str, values: Mapping[str, Any]) -> str:
    """The YAML ``text`` (valid) with some settings changed or added; its comments and its order stay."""
    yaml = YAML()
    yaml.Representer = _Representer
    yaml.preserve_quotes = True
    yaml.width = 4096
    document = yaml.load(text)
    for name, value in values.items():
        section, _, key = name.partition(".")
        if document.get(section) is None:
            document[section] = CommentedMap()
        _set(document[section], key, value)
    stream = StringIO()
    yaml.dump(document, stream)
    return stream.getvalue()


class _Representer(RoundTripRepresenter):
    """Writes ``null`` as a word: an empty place after a colon reads like something forgotten."""

    def represent_none(self, data: None) -> Any:
        return self.represent_scalar("tag:yaml.org,2002:null", "null")


_Representer.add_representer(type(None), _Representer.represent_none)


def _set(section: CommentedMap, key: str, value: Any) -> None:
    """Put ``value`` in; a new key goes last, but before the comment lines that introduce the next section."""
    if isinstance(value, (tuple, list)):
        value = CommentedSeq(value)
        value.fa.set_flow_style()
    last = next(reversed(section), None)
    is_new = key not in section
    section[key] = value
    if is_new and last in section.ca.items and (token := section.ca.items[last][2]):
        own, line_end, following = token.value.partition("\n")
        token.value = own + line_end
        section.ca.items[key] = [None, None, CommentToken(line_end + following, token.start_mark, None), None]
