"""The model card: what goes into README.md beside an adapter or a merged model (Markdown, Chinese).

It is made to be handed on: no path of this machine and no words of the training data are in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hantune import __version__
from hantune.paths import RunFolder, write_file
from hantune.report.data import RunData, inside, read_run
from hantune.report.verdict import adapter_name, base_name, hub_id, verdict, what_was_done
from hantune.report.words import HELD_OUT, LOADS, count, dropped_reason, measure_of, measure_rank, measure_text


def model_card(run: RunFolder, *, merged: bool = False) -> str:
    """The card of ``run`` as Markdown with YAML front matter; ``merged``: for a whole model, not for its adapter.

    Raises: RunError ``report.no-run``.
    """
    data = read_run(run)
    is_adapter = _is_lora(data) and not merged
    head, usage = _head(data, is_adapter), _usage(is_adapter)
    sections = [head, _summary(data), _data(data), _training(data), _metrics(data), usage, _limits(data)]
    return "\n\n".join(section for section in sections if section) + "\n"


def _head(data: RunData, is_adapter: bool) -> str:
    """The front matter that model hubs read; the base only when it has an id there."""
    base = hub_id(data)
    lines = ["---", "language: zh", "pipeline_tag: text-generation", "tags: [hantune, chat, chinese]"]
    if is_adapter:
        lines.append("library_name: peft")
    if base:
        lines.append(f"base_model: {_yaml(base)}")
        lines.append(f"base_model_relation: {'adapter' if is_adapter else 'finetune'}")
    return "\n".join([*lines, "---"])


def _summary(data: RunData) -> str:
    found = verdict(data)
    title = f"# {_plain(base_name(data))} 中文对话微调".replace("#  ", "# ")
    notes = "\n".join(f"- {_plain(note)}" for note in found.notes)
    return "\n\n".join(part for part in (title, _plain(what_was_done(data)), _plain(found.sentence), notes) if part)


def _data(data: RunData) -> str:
    """Counts, formats and reasons; of the sources only how many they were."""
    manifest = data.manifest
    if not manifest:
        return ""
    listed = manifest.get("sources")
    sources = [item for item in listed if isinstance(item, dict)] if isinstance(listed, list) else []
    formats = sorted({str(item["format"]) for item in sources if item.get("format")})
    names = {"read": "读到", "kept": "留下", "train": "训练", "val": "验证"}
    lines = ["## 数据", "", ", ".join(f"{name} {count(manifest.get(key))}" for key, name in names.items()) + "."]
    if formats:
        lines.append(f"来自 {len(sources)} 个文件, 格式: {_plain(', '.join(formats))}.")
    dropped = manifest.get("dropped")
    if isinstance(dropped, dict) and dropped:
        reasons = (f"{dropped_reason(str(code)) or code} {count(dropped[code])}" for code in sorted(dropped))
        lines.append(f"去掉的: {_plain(', '.join(reasons))}.")
    return "\n".join(lines)


def _training(data: RunData) -> str:
    """The template and the settings that decide what was learned."""
    template = inside(data.adapter, "template.name") or data.plan.get("template") or data.setting("template.name")
    rows: list[tuple[str, Any]] = [
        ("底座", base_name(data)),
        ("底座指纹", inside(data.adapter, "base.fingerprint")),
        ("提示模板", template),
        ("系统提示", "有" if inside(data.adapter, "template.system") or data.setting("template.system") else "无"),
        ("方式", _method(data)),
        ("学习率", data.setting("train.learning_rate")),
        ("步数", data.last_step or None),
        ("精度", inside(data.plan, "precision.name")),
        ("底座的权重", LOADS.get(str(data.plan.get("load")))),
        ("种子", data.setting("train.seed")),
    ]
    known = ((name, str(value)) for name, value in rows if value not in (None, ""))
    return "## 训练\n\n" + _table(("项目", "值"), known)


def _metrics(data: RunData) -> str:
    """Before, after and the meaning of each number."""
    rows = [(measure, data.held_out(measure.key)) for measure in HELD_OUT]
    rows += sorted(
        ((measure_of(name), data.metric(name)) for name in data.metric_names()), key=lambda row: measure_rank(row[0])
    )
    shown = [
        (measure.name, measure_text(measure, change.before), measure_text(measure, change.after), measure.meaning)
        for measure, change in rows
        if change.before is not None or change.after is not None
    ]
    where = "训练时没见过的" if data.has_held_out else "练过的"
    head = f"## 成绩\n\n在{where}对话上测的.\n\n"
    return head + _table(("项目", "训练前", "训练后", "意思"), shown) if shown else ""


def _usage(is_adapter: bool) -> str:
    """The commands, for whoever holds this folder."""
    lines = ["## 使用", "", "```", "hantune chat 这个文件夹"]
    if is_adapter:
        lines.append("hantune model merge 这个文件夹 --out merged")
    template = "提示模板存在文件夹里, hantune 会自己找到; 用别的工具时请照着它的 chat_template.jinja."
    return "\n".join([*lines, "```", "", template])


def _limits(data: RunData) -> str:
    base = base_name(data)
    return "\n".join(
        [
            "## 局限",
            "",
            "- 回答可能不真实, 不完整或有偏见; 不能代替医生, 律师等专业人士.",
            "- 只在上面列出的数据上测过; 换一类问题, 成绩会不同.",
            f"- 使用和传播还要遵守底座{' ' + _plain(base) if base else ''} 和训练数据各自的许可.",
            "",
            f"由 hantune {__version__} 写成.",
        ]
    )


def _method(data: RunData) -> str:
    """What was trained, in a few words."""
    if not _is_lora(data):
        return "全部参数"
    layers = data.setting("adapter.layers_to_transform")
    only = f", 只在这些层: {layers}" if layers else ""
    return f"{adapter_name(data)}, 秩 {data.setting('adapter.rank') or '默认'}{only}"


def _is_lora(data: RunData) -> bool:
    return data.setting("adapter.kind") in (None, "lora")


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [head, tuple("---" for _ in head), *[tuple(_plain(cell) for cell in row) for row in rows]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _plain(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return re.sub(r"([\\`*\[\]<>|])", r"\\\1", " ".join(text.split()))


def _yaml(text: str) -> str:
    """A plain scalar, or a quoted one where a character could mean something."""
    return text if re.fullmatch(r"[\w./-]+", text) else "'" + text.replace("'", "''") + "'"


def write_cards(run: RunFolder) -> list[Path]:
    """README.md beside the adapter, the fully trained model and the merged model, where the run has them."""
    folders = [(run.adapter, False), (run.model, True), (run.merged, True)]
    written = []
    for folder, merged in folders:
        if folder.is_dir():
            write_file(folder / "README.md", model_card(run, merged=merged))
            written.append(folder / "README.md")
    return written
