"""``finetune_config.json`` of the LCCC fine-tuning kit in our names (formats.md section 6).

The file has ``model_args data_args training_args lora_args``, any of them, with names of transformers and PEFT.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hantune.config.check import Findings, Found, raise_problems, shown, validate
from hantune.config.fields import settings
from hantune.config.io import read_text
from hantune.config.names import OTHER_NAMES, OTHER_VALUES, WITHOUT_COUNTERPART, is_secret
from hantune.config.text import Entry, parse_text
from hantune.errors import ConfigError

SECTIONS = {"model_args": "model", "data_args": "data", "training_args": "train", "lora_args": "adapter"}
"""The file's sections and the ones of ours that hold most of the same."""

DATA_KEYS: dict[str, type] = {
    "dataset_name": str,
    "dataset_path": str,
    "max_samples": int,
    "max_turns": int,
    "use_local_model": bool,
    "local_model": bool,
    "use_local_dataset": bool,
}
"""What is not a setting of a run but steers how its data and model are found."""

SAME_HERE = {"bias": "none", "task_type": "CAUSAL_LM", "report_to": "none"}
"""Values that ask for what happens anyway."""

FLAGS = (
    "fp16", "bf16", "use_cpu", "no_cuda", "use_lora", "use_wandb", "packing", "group_by_length", "load_in_4bit",
    "load_in_8bit",
)  # fmt: skip
"""Switches that are read together, after all else."""

ENDS = re.compile(r"embed|wte|lm_head|embed_out")
"""In a module's name: it is the embedding or the head."""

TYPE_WORDS = {str: "文字", int: "大于 0 的整数", bool: "true 或 false"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Kit:
    """``overrides``: dotted name -> value. ``data``: ``DATA_KEYS`` as written. ``notes``: what was not used, why."""

    overrides: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class NotUsed(Exception):
    """A value that has no counterpart; its text becomes a note (empty: not worth one)."""


def read_kit(path: Path) -> Kit:
    """What the kit's JSON file asks for, in our names. ``null`` means not given.

    Raises: ConfigError ``config.missing``, ``config.unreadable``, ``config.broken-json``, ``config.not-mapping``;
        with the key and its line ``config.bad-value``, ``config.duplicate-key``, ``config.conflict``,
        ``config.secret``, or all of them as ``config.invalid``.
    """
    problems: list[ConfigError] = []
    kit = Kit()
    found: Findings = {}
    written: dict[str, str] = {}
    flags: dict[str, bool] = {}
    for name, entry in _flat(parse_text(read_text(path), str(path), as_json=True), str(path), problems).items():
        key, place = name.rpartition(".")[2], f"{path}:{entry.line}"
        if is_secret(name, entry.value):
            problems.append(ConfigError("config.secret", f"{name} 看起来是密钥或密码", place=place, hint="删掉这一行"))
        elif key in DATA_KEYS or key in FLAGS:
            expected = DATA_KEYS.get(key, bool)
            if _fits(entry.value, expected):
                (flags if key in FLAGS else kit.data)[key] = entry.value
            else:
                problems.append(_wrong_type(name, entry.value, expected, place))
        else:
            _translate(name, entry.value, place, kit, found, written)
    _apply_flags(flags, kit, found, str(path), problems)
    validate(found, problems)
    raise_problems([_in_their_words(problem, written) for problem in problems])
    kit.overrides.update({name: finding.value for name, finding in found.items()})
    return kit


def _flat(entries: tuple[Entry, ...], file: str, problems: list[ConfigError]) -> dict[str, Entry]:
    """``training_args.fp16`` -> entry; keys outside the four sections stand for themselves; nulls are left out."""
    flat: dict[str, Entry] = {}
    pairs: list[tuple[str, Entry]] = []
    for entry in entries:
        if isinstance(entry.value, tuple):
            pairs += [(f"{entry.key}.{inner.key}", inner) for inner in entry.value]
        elif entry.key in SECTIONS and entry.value is not None:
            place = f"{file}:{entry.line}"
            problems.append(ConfigError("config.bad-value", f"{entry.key} 应为一个 {{...}} 对象", place=place))
        else:
            pairs.append((entry.key, entry))
    for name, entry in pairs:
        if name in flat:
            message = f"{name} 写了两次 (第 {flat[name].line} 行已经有一个)"
            problems.append(ConfigError("config.duplicate-key", message, place=f"{file}:{entry.line}", hint="只留一个"))
        elif entry.value is not None:
            flat[name] = entry
    return flat


def _fits(value: Any, expected: type) -> bool:
    """Whether ``value`` is of the type; integers must be positive, and a switch is no integer."""
    return type(value) is expected and (not isinstance(value, int) or isinstance(value, bool) or value > 0)


def _wrong_type(name: str, value: Any, expected: type, place: str) -> ConfigError:
    return ConfigError("config.bad-value", f"{name} 应为 {TYPE_WORDS[expected]}, 现在是 {shown(value)}", place=place)


def _translate(name: str, value: Any, place: str, kit: Kit, found: Findings, written: dict[str, str]) -> None:
    """Put one value under our name into ``found``, or a note into ``kit``."""
    key = name.rpartition(".")[2]
    ours = our_name(name)
    if SAME_HERE.get(key) == value:
        return
    if ours is None:
        reason = WITHOUT_COUNTERPART.get(key, "hantune 没有对应的设置")
        kit.notes.append(f"没有用 {name} = {shown(value)}: {reason}")
        return
    try:
        value = VALUES[key](value) if key in VALUES else _other_value(ours, value)
    except NotUsed as reason:
        if str(reason):
            kit.notes.append(f"没有用 {name} = {shown(value)}: {reason}")
        return
    if ours in found and found[ours].value != value:
        kit.notes.append(f"{written[ours]} 和 {name} 说的是同一件事 ({ours}); 用了后面的 {shown(value)}")
    found[ours] = Found(value=value, place=place, origin=place)
    written[ours] = name


def our_name(name: str) -> str | None:
    """The setting that exactly corresponds to the kit's ``training_args.warmup_ratio``, or None."""
    section, _, key = name.rpartition(".")
    candidates = (f"{SECTIONS.get(section, 'train')}.{key}", OTHER_NAMES.get(key), f"train.{key}")
    return next((candidate for candidate in candidates if candidate in settings()), None)


def _other_value(name: str, value: Any) -> Any:
    """``float16`` -> ``fp16`` and the like."""
    return OTHER_VALUES.get(name, {}).get(value, value) if isinstance(value, str) else value


def _apply_flags(flags: dict[str, bool], kit: Kit, found: Findings, file: str, problems: list[ConfigError]) -> None:
    """Precision, device, adapter and batching from switches; a switch that is off asks for nothing but ``use_lora``."""
    on = {name for name, value in flags.items() if value}
    wanted: dict[str, Any] = {}
    if {"fp16", "bf16"} <= on:
        message = "fp16 和 bf16 不能同时是 true"
        problems.append(ConfigError("config.conflict", message, place=file, hint="只留一个 true"))
    if on & {"use_cpu", "no_cuda"}:
        wanted["train.device"] = "cpu"
        if "fp16" in on:
            on.remove("fp16")
            kit.notes.append("没有用 fp16 = true: CPU 上不用 fp16, 计算精度由 hantune 选")
    if on & {"fp16", "bf16"}:
        wanted["train.precision"] = "fp16" if "fp16" in on else "bf16"
    if on & {"load_in_4bit", "load_in_8bit"}:
        wanted["model.load"] = "4bit" if "load_in_4bit" in on else "8bit"
    if flags.get("use_lora") is False:
        wanted["adapter.kind"] = "none"
    if on & {"packing", "group_by_length"}:
        wanted["train.batching"] = "packed" if "packing" in on else "sorted"
    if "use_wandb" in on:
        wanted["log.trackers"] = ["wandb"]
    found.update({name: Found(value=value, place=file, origin=file) for name, value in wanted.items()})


def _in_their_words(problem: ConfigError, written: dict[str, str]) -> ConfigError:
    """The problem with the key as the file has it instead of our name."""
    name, _, rest = problem.message.partition(" ")
    if name in written:
        problem.message = f"{written[name]} {rest}"
        problem.args = (problem.message,)
    return problem


def _schedule(value: Any) -> Any:
    """``constant_with_warmup`` is our constant with ``train.warmup_share``."""
    ours = _other_value("train.schedule", value)
    if isinstance(ours, str) and ours not in settings()["train.schedule"].choices:
        raise NotUsed("只有 cosine, linear, constant; 用默认的 cosine")
    return ours


def _bits(value: Any) -> Any:
    """``quantization_bit: 4`` is ``4bit``."""
    ours = _other_value("model.load", str(value))
    if ours not in settings()["model.load"].choices:
        raise NotUsed("只有 4 比特和 8 比特")
    return ours


def _optimizer(value: Any) -> Any:
    """``paged_adamw_8bit`` is ``paged_adamw8bit``."""
    ours = _other_value("train.optimizer", value)
    if isinstance(ours, str) and ours not in settings()["train.optimizer"].choices:
        raise NotUsed(f"只有 {', '.join(settings()['train.optimizer'].choices)}; 用默认的 adamw")
    return ours


def _targets(value: Any) -> Any:
    """``"q_proj,v_proj"`` as a list; ``all`` is ``all-linear``."""
    if isinstance(value, str):
        ours = _other_value("adapter.targets", value)
        return ours if ours == "all-linear" else [word.strip() for word in value.split(",") if word.strip()]
    return value


def _layers(value: Any) -> Any:
    """PEFT takes one number for one layer."""
    return [value] if type(value) is int else value


def _embeddings(value: Any) -> Any:
    """``embed_tokens,lm_head`` or a list: embedding and head trained whole."""
    words = value.split(",") if isinstance(value, str) else value
    if not isinstance(words, list):
        return value
    if any(ENDS.search(str(word)) for word in words):
        return "all"
    raise NotUsed("除了适配器, 只能整个训练词嵌入和输出层")


def _trackers(value: Any) -> Any:
    """The trackers we know among ``report_to``."""
    words = [value] if isinstance(value, str) else value
    if not isinstance(words, list) or not words:
        return value
    known = [word for word in words if word in settings()["log.trackers"].choices]
    if not known:
        raise NotUsed(f"只认 {', '.join(settings()['log.trackers'].choices)}")
    return known


def _steps_or_none(value: Any) -> Any:
    """transformers writes "no limit" as -1 or 0."""
    if type(value) is int and value <= 0:
        raise NotUsed("")
    return value


def _clipping(value: Any) -> Any:
    """transformers writes "no clipping" as 0."""
    return None if type(value) in (int, float) and value == 0 else value


def _kept(value: Any) -> Any:
    """At least two checkpoints are kept, so that a torn one has one before it."""
    return max(2, value) if type(value) is int else value


def _share(value: Any) -> Any:
    """A count of rows is no share."""
    if type(value) is int and value >= 1:
        raise NotUsed("这里写的是条数; hantune 用比例 data.val_share")
    return value


def _warmup_steps(value: Any) -> Any:
    """A count of steps is no share."""
    raise NotUsed("" if value == 0 else "这里写的是步数; hantune 用比例 train.warmup_share")


VALUES: dict[str, Callable[[Any], Any]] = {
    "load_in_bits": _bits,
    "quantization_bit": _bits,
    "quant_bits": _bits,
    "quantization": _bits,
    "quantize": _bits,
    "optim": _optimizer,
    "optimizer": _optimizer,
    "lr_scheduler_type": _schedule,
    "target_modules": _targets,
    "lora_target": _targets,
    "lora_target_modules": _targets,
    "layers_to_transform": _layers,
    "peft_layers_to_transform": _layers,
    "modules_to_save": _embeddings,
    "lora_modules_to_save": _embeddings,
    "additional_target": _embeddings,
    "report_to": _trackers,
    "max_steps": _steps_or_none,
    "max_grad_norm": _clipping,
    "save_total_limit": _kept,
    "val_size": _share,
    "val_set_size": _share,
    "warmup_steps": _warmup_steps,
}
"""Keys whose values mean something else there than here."""
