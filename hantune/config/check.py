"""From what was written (entries, overrides) to a ``RunConfig``, or to all that is wrong with it at once.

Every problem is a ``ConfigError`` of its own, with its place and a way out. ``raise_problems`` raises a single one as
it is, several as one ``config.invalid`` (``config.secret`` if a secret is among them) that lists them line by line.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from hantune.config.fields import Setting, sections, settings
from hantune.config.names import OTHER_VALUES, WITHOUT_COUNTERPART, is_secret, meant, meant_section, plain
from hantune.config.schema import RunConfig
from hantune.config.text import Entry, parse_scalar
from hantune.errors import ConfigError

COMMAND_LINE = "命令行"

BOUNDS = {
    "greater_than_equal": "不能小于 {ge}",
    "greater_than": "要大于 {gt}",
    "less_than_equal": "不能大于 {le}",
    "less_than": "要小于 {lt}",
    "finite_number": "要是一个有限的数",
    "too_short": "至少要有 {min_length} 项",
}
"""pydantic's error type -> what to say about the value."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """A value, where it stands (``run.yaml:12``), and who set it, in the words of ``config show``."""

    value: Any
    place: str
    origin: str


Findings = dict[str, Found]
"""Dotted name -> what was found."""


def walk(entries: tuple[Entry, ...], file: str, problems: list[ConfigError], origin: str | None = None) -> Findings:
    """The settings among ``entries``, and ``preset``; whatever else stands there is added to ``problems``."""
    found: Findings = {}
    lines: dict[str, int] = {}
    for name, entry in _flat(entries, file, problems):
        place = f"{file}:{entry.line}"
        if name in lines:
            problems.append(_duplicate(name, lines[name], place))
        elif is_secret(name, entry.value):
            problems.append(_secret(name, place))
        elif name not in settings() and name != "preset":
            problems.append(unknown(name, place))
        else:
            found[name] = Found(value=entry.value, place=place, origin=origin or place)
        lines.setdefault(name, entry.line)
    return found


def _flat(entries: tuple[Entry, ...], file: str, problems: list[ConfigError]) -> list[tuple[str, Entry]]:
    """``(section.key, entry)`` for all that stands in a section, ``(key, entry)`` for what stands outside."""
    flat: list[tuple[str, Entry]] = []
    seen: dict[str, int] = {}
    for entry in entries:
        if entry.key not in sections():
            flat.append((entry.key, entry))
            continue
        if entry.key in seen:
            problems.append(_duplicate(entry.key, seen[entry.key], f"{file}:{entry.line}"))
        seen.setdefault(entry.key, entry.line)
        if isinstance(entry.value, tuple):
            flat += [(f"{entry.key}.{inner.key}", inner) for inner in entry.value]
        elif entry.value is not None:
            problems.append(_not_a_section(entry, f"{file}:{entry.line}"))
    return flat


def overrides_of(texts: Iterable[str], problems: list[ConfigError]) -> Findings:
    """``section.key=value`` texts as findings; the last of two for one setting holds."""
    found: Findings = {}
    for text in texts:
        name, sign, raw = (part.strip() for part in text.partition("="))
        if not sign or not name:
            guess = meant(name) or "train.batch_size"
            problems.append(
                ConfigError(
                    "config.bad-override",
                    f"{text!r} 不是 节.设置=值 的样子",
                    place=COMMAND_LINE,
                    hint=f"例如 {guess}={_written(settings()[guess].default)} (等号两边没有空格)",
                )
            )
        elif is_secret(name, raw):
            problems.append(_secret(name, COMMAND_LINE))
        elif name not in settings() and name != "preset":
            problems.append(unknown(name, COMMAND_LINE))
        else:
            try:
                value = raw if name == "preset" else _override_value(settings()[name], raw)
                found[name] = Found(value=value, place=COMMAND_LINE, origin=COMMAND_LINE)
            except ConfigError as error:
                problems.append(
                    ConfigError(
                        "config.bad-override",
                        f"{name} 的值看不懂: {error.message}",
                        place=COMMAND_LINE,
                        hint=error.hint,
                    )
                )
    return found


def _override_value(setting: Setting, raw: str) -> Any:
    """``raw`` as YAML reads it; where a text is wanted, as it stands, so that ``2026`` or ``a: b`` is a text."""
    is_quoted = len(raw) > 1 and raw[0] in "'\"" and raw[-1] == raw[0]
    if str in setting.types and not {tuple, bool} & setting.types and not is_quoted:
        return None if raw in ("null", "~") or (not raw and setting.is_nullable) else raw
    return parse_scalar(raw)


def validate(found: Findings, problems: list[ConfigError]) -> RunConfig:
    """The configuration of ``found`` over the defaults. What does not fit is added to ``problems`` and left out."""
    good = dict(found)
    while True:
        try:
            return RunConfig.model_validate(_nested(good))
        except ValidationError as error:
            bad = _by_setting(error)
            problems += [_bad_value(name, good.get(name), errors, good) for name, errors in bad.items()]
            good = {name: value for name, value in good.items() if name not in bad}
            if "" in bad:  # a rule over several settings: all that is left fits one by one
                return RunConfig()


def _nested(found: Findings) -> dict[str, dict[str, Any]]:
    """``{section: {key: value}}``."""
    nested: dict[str, dict[str, Any]] = {}
    for name, finding in found.items():
        section, _, key = name.partition(".")
        nested.setdefault(section, {})[key] = finding.value
    return nested


def _by_setting(error: ValidationError) -> dict[str, list[Any]]:
    """pydantic's errors by dotted name; a union gives several for one setting, a rule over several has name ``""``."""
    grouped: dict[str, list[Any]] = {}
    for detail in error.errors(include_url=False):
        grouped.setdefault(".".join(str(part) for part in detail["loc"][:2]), []).append(detail)
    return grouped


def _bad_value(name: str, finding: Found | None, errors: list[Any], found: Findings) -> ConfigError:
    """What a value should have been, what it is, and how to write it."""
    if not name:
        message = str(errors[0]["ctx"]["error"])
        places = [finding.place for key, finding in found.items() if key in message]
        return ConfigError("config.conflict", message, place=places[0] if places else None, hint="改掉其中一个")
    setting = settings()[name]
    value = finding.value if finding else None
    bound = BOUNDS.get(errors[0]["type"]) if len(errors) == 1 or isinstance(value, list) else None
    if value is None:
        message = f"{name} 不能留空"
    elif bound and not (isinstance(value, list) and value):
        limits = {key: shown(limit) for key, limit in errors[0].get("ctx", {}).items()}
        message = f"{name} {bound.format(**limits)}, 现在是 {shown(value)}"
    else:
        message = f"{name} 应为 {setting.kind}, 现在是 {shown(value)}"
    return ConfigError(
        "config.bad-value", message, place=finding.place if finding else name, hint=_way_out(setting, value)
    )


def _way_out(setting: Setting, value: Any) -> str | None:
    """The value that was probably meant, written as it should be."""
    if value is None:
        return f"写一个值, 或删掉这一行 (默认 {_written(setting.default)})"
    if setting.examples:
        return f"写成 {' 或 '.join(map(_written, setting.examples))} 这样"
    if tuple in setting.types and isinstance(value, list) and str not in map(type, value):
        return '每一项都写成文字, 例如 ["1", "2"]' if value else None
    if tuple in setting.types and isinstance(value, str):
        other = OTHER_VALUES.get(setting.name, {}).get(value)
        return f"写成 {other or '[' + ', '.join(value.replace(',', ' ').split()) + ']'}"
    if isinstance(value, str) and setting.choices:
        near = OTHER_VALUES.get(setting.name, {}).get(value.lower()) or _nearest_choice(value, setting.choices)
        if near or bool not in setting.types:
            return f"写成 {near}" if near else None
    if isinstance(value, str) and not isinstance(_quietly(value), str):
        return f"去掉引号, 写成 {value}"
    if isinstance(value, str) and bool in setting.types:
        return "写成 true 或 false"
    if isinstance(value, float) and int in setting.types and value.is_integer():
        return f"写成 {int(value)}"
    if str in setting.types and isinstance(value, (int, float)) and not setting.choices:
        return f'加上引号, 写成 "{_written(value)}"'
    return None


def _quietly(text: str) -> Any:
    """What YAML makes of ``text``, or the text itself."""
    try:
        return parse_scalar(text)
    except ConfigError:
        return text


def _nearest_choice(value: str, choices: tuple[str, ...]) -> str | None:
    """The choice that looks most like ``value``."""
    near = difflib.get_close_matches(value.lower(), choices, n=1, cutoff=0.5)
    return near[0] if near else None


def unknown(name: str, place: str) -> ConfigError:
    """There is no such setting; the nearest one is named, also for the names of other tools."""
    reason = WITHOUT_COUNTERPART.get(plain(name).rpartition(".")[2])
    guess = None if reason else meant(name)
    message = f"没有这个设置 {name}"
    first = name.partition(".")[0]
    if first not in sections() and guess is None and not reason:
        section = meant_section(first)
        message = f"没有这一节 {first}" + (f"; 是不是 {section}?" if section else "")
        return ConfigError("config.unknown-key", message, place=place, hint=f"可用的节: {', '.join(sections())}")
    if guess:
        hint = f"改成 {guess}" if place == COMMAND_LINE else f"改成 {guess.replace('.', ': 下面的 ')}"
        return ConfigError("config.unknown-key", f"{message}; 是不是 {guess}?", place=place, hint=hint)
    hint = f"删掉它; {reason}" if reason else "删掉它; 全部设置见 docs/reference/config.md"
    return ConfigError("config.unknown-key", message, place=place, hint=hint)


def _duplicate(name: str, line: int, place: str) -> ConfigError:
    return ConfigError(
        "config.duplicate-key", f"{name} 写了两次 (第 {line} 行已经有一个)", place=place, hint="只留一个"
    )


def _not_a_section(entry: Entry, place: str) -> ConfigError:
    """``train: 5``, or a section whose settings lack the blank after the colon."""
    is_glued = isinstance(entry.value, str) and any(sign in entry.value for sign in ":：")
    hint = (
        "冒号要用英文的, 后面要有空格: batch_size: 8" if is_glued else f"{entry.key}: 下面另起一行, 缩进两个空格写设置"
    )
    return ConfigError(
        "config.bad-value",
        f"{entry.key} 是一节, 下面应该有 `设置: 值`, 现在是 {shown(entry.value)}",
        place=place,
        hint=hint,
    )


def _secret(name: str, place: str) -> ConfigError:
    """The value is never repeated."""
    return ConfigError(
        "config.secret",
        f"{name} 看起来是密钥或密码; 配置会抄进运行文件夹和报告, 不能放这些 (值没有显示, 也没有保存)",
        place=place,
        hint="删掉这一行; 登录用 hf auth login 或环境变量 HF_TOKEN. 已经给别人看过的密钥请作废重开",
    )


def shown(value: Any) -> str:
    """A value as people write it, in at most 60 characters."""
    if isinstance(value, tuple):
        return "又一层设置"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value)) if value == 0 else f"{value:.1f}"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def _written(value: Any) -> str:
    """A default as it would stand in a file."""
    return "null" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def raise_problems(problems: list[ConfigError]) -> None:
    """Nothing if there are none.

    Raises: the one problem; or ConfigError ``config.secret`` / ``config.invalid`` with all of them, in order of place.
    """
    if not problems:
        return
    ordered = sorted(problems, key=lambda problem: _line(problem.place))
    first = ordered[0]
    if len(ordered) == 1:
        raise first
    lines = [
        f"{problem.place}  {problem.message}" + (f" → {problem.hint}" if problem.hint else "") for problem in ordered
    ]
    message = "\n".join([f"有 {len(ordered)} 处要改:", *(f"      {line}" for line in lines)])
    if any(problem.code == "config.secret" for problem in ordered):
        raise ConfigError("config.secret", message, place=first.place, hint="先删掉密钥那一行, 再改其它的")
    raise ConfigError(
        "config.invalid", message, place=first.place, hint="照箭头后面的写法改好, 再运行 hantune config check"
    )


def _line(place: str | None) -> float:
    """The line number in ``file:line``; the command line comes last."""
    number = (place or "").rpartition(":")[2]
    return int(number) if number.isdigit() else float("inf")


def require_complete(config: RunConfig, file: str | None = None) -> None:
    """Nothing if a training can start with ``config``.

    Raises: ConfigError ``config.incomplete`` naming the settings that are still empty.
    """
    needed: Mapping[str, str] = {"model.path": config.model.path, "data.path": config.data.path}
    missing = [name for name, value in needed.items() if not value.strip()]
    if missing:
        raise ConfigError(
            "config.incomplete",
            f"还没有填: {', '.join(missing)}",
            place=file,
            hint="在文件里填上, 或在命令后面加: " + " ".join(f"{name}=..." for name in missing),
        )
