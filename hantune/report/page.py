"""A run as one HTML file that needs nothing else: no request, no script, light and dark, screen, phone and paper.

The template escapes every value; a content security policy in the page forbids scripts and requests once more.
"""

from __future__ import annotations

import re
from pathlib import Path, PureWindowsPath
from typing import Any

from hantune import __version__
from hantune.log import duration
from hantune.paths import RunFolder, quoted, write_file
from hantune.report.data import Answers, Probe, Record, RunData, inside, number, read_run, spoken
from hantune.report.pages import page_template
from hantune.report.plots import loss_chart, rate_chart
from hantune.report.verdict import verdict, warnings_of, what_was_done
from hantune.report.words import (
    HELD_OUT,
    LOADS,
    clipped,
    count,
    decimal,
    dropped_reason,
    measure_of,
    measure_rank,
    measure_text,
    movement,
    share,
)

MAX_ANSWERS = 30
"""More questions than this are counted, not shown."""
MAX_PROBE_STEPS = 6
"""Of more steps, these many are shown, first and last among them."""
MAX_CHARACTERS = 600
"""Of a prompt or an answer."""
MAX_MASK_TOKENS = 800
"""Of the mask sample."""
MAX_SOURCES = 20
"""Of the list of source files."""

ROUND = (
    ("chinese_share", "中文", share), ("stop_rate", "正常收尾", share), ("repetition", "重复", share),
    ("memorised", "背原文", share), ("length_ratio", "长度比", decimal), ("score", "试答分", decimal),
)  # fmt: skip
"""What is shown of a round of the fixed questions."""

Rows = list[tuple[str, str]]


def write_report(run: RunFolder, out: Path | None = None) -> Path:
    """The path of the HTML report of ``run``: ``out``, or ``report.html`` in the run's folder.

    Raises: RunError ``report.no-run``; MachineError ``machine.disk-full``, ``machine.no-write``.
    """
    page = render(read_run(run))
    path = out or run.report
    if path.is_dir():
        path = path / run.report.name
    write_file(path, page.encode("utf-8", "replace"))
    return path


def render(data: RunData) -> str:
    """The whole page as text; the same data gives the same text."""
    from markupsafe import Markup

    found = verdict(data)
    return page_template("page.html").render(
        name=data.name,
        version=__version__,
        tone=found.tone,
        headline=re.split("(?<=[,.]) ", found.sentence),
        notes=[*found.notes, *warnings_of(data)],
        done=what_was_done(data),
        tiles=_tiles(data),
        data_card=_data_card(data),
        mask=_mask(data),
        charts={"loss": Markup(loss_chart(data)), "rate": Markup(rate_chart(data))},
        has_evaluations=bool(data.of_kind("eval")),
        asked_of="在留出来的, 训练时没见过的对话上测的."
        if data.has_held_out
        else "没有留出对话, 这些是在练过的对话上测的.",
        answers=_answers(data.answers()),
        probes=[_probe(probe) for probe in data.probes],
        rounds=_rounds(data),
        metrics=_metrics(data),
        moments=data.held_out()[2:],
        machine=_machine(data),
        commands=_commands(data),
        versions=_versions(data),
        config=data.config_text.strip(),
    )


def _tiles(data: RunData) -> list[dict[str, str]]:
    """The four numbers under the verdict; a number that is not known has no tile."""
    tiles = []
    for measure in HELD_OUT[:2]:
        change = data.held_out(measure.key)
        if change.before is not None and change.after is not None:
            tiles.append({"name": measure.name, "before": decimal(change.before), "value": decimal(change.after)})
    pairs = [answer for answer in data.answers() if answer.is_pair]
    if pairs:
        tiles.append({"name": "变了的回答", "before": "", "value": f"{sum(p.changed for p in pairs)} / {len(pairs)}"})
    seconds = data.seconds()
    if seconds:
        tiles.append({"name": "训练用时", "before": "", "value": duration(seconds)})
    return tiles


def _data_card(data: RunData) -> dict[str, Any] | None:
    """What the manifest says: counts, what was dropped and why, and the source files (names, not paths)."""
    manifest = data.manifest
    if not manifest:
        return None
    dropped = manifest.get("dropped")
    reasons = list(dropped.items()) if isinstance(dropped, dict) else []
    reasons.sort(key=lambda item: (-(number(item[1]) or 0), item[0]))
    sources = manifest.get("sources")
    files = [_source(item) for item in sources if isinstance(item, dict)] if isinstance(sources, list) else []
    counts = [("读到 (条)", "read"), ("留下 (条)", "kept"), ("训练 (段对话)", "train"), ("验证 (段对话)", "val")]
    return {
        "counts": [(name, count(manifest.get(key))) for name, key in counts],
        "dropped": [(dropped_reason(str(code)), str(code), count(times)) for code, times in reasons],
        "sources": files[:MAX_SOURCES],
        "more_sources": max(0, len(files) - MAX_SOURCES),
        "lead": _data_lead(data),
    }


def _data_lead(data: RunData) -> str:
    """Whether every record is accounted for, and how many conversations were trained on where that is fewer."""
    read, kept, dropped = (data.manifest.get(key) for key in ("read", "kept", "dropped"))
    gone = sum(number(times) or 0 for times in dropped.values()) if isinstance(dropped, dict) else 0
    is_whole = number(read) is not None and number(read) == (number(kept) or 0) + gone
    parts = ["每一条记录都有下落: 读到的 = 留下的 + 去掉的." if is_whole else "整理原始文件时读到, 留下和去掉的条数."]
    used, prepared = data.num_samples, number(data.manifest.get("train"))
    if used and prepared and used < prepared:
        parts.append(f"训练实际用了 {count(used)} 段.")
    left_out = data.plan.get("dropped")
    too_long = number(left_out.get("tokens.nothing-left")) if isinstance(left_out, dict) else None
    if too_long:
        parts.append(f"{count(too_long)} 段一轮也放不进 data.max_tokens, 没有用.")
    return " ".join(parts)


def _source(item: Record) -> dict[str, str]:
    """One source file as a row: its bare name, how it was read, how much was kept."""
    fingerprint = [f"sha256 {str(item['sha256'])[:12]}"] if item.get("sha256") else []
    return {
        "name": PureWindowsPath(str(item.get("path", ""))).name,
        "about": ", ".join([*[str(item[key]) for key in ("format", "encoding") if item.get(key)], *fingerprint]),
        "kept": f"{count(item.get('kept'))} / {count(item.get('read'))}",
    }


def _mask(data: RunData) -> dict[str, Any] | None:
    """The mask sample as (text, learned) runs, and how many of its tokens are learned."""
    if not data.mask:
        return None
    runs: list[tuple[str, bool]] = []
    for text, learn in data.mask[:MAX_MASK_TOKENS]:
        if runs and runs[-1][1] == learn:
            runs[-1] = (runs[-1][0] + text, learn)
        else:
            runs.append((text, learn))
    return {
        "runs": runs,
        "tokens": len(data.mask),
        "learned": sum(learn for _, learn in data.mask),
        "more": max(0, len(data.mask) - MAX_MASK_TOKENS),
    }


def _answers(answers: list[Answers]) -> dict[str, Any]:
    """The questions with both answers, clipped; how many are not shown."""
    rows = [
        {
            "prompt": clipped(answer.prompt, MAX_CHARACTERS),
            "reference": clipped(answer.reference, MAX_CHARACTERS),
            "before": None if answer.before is None else clipped(answer.before, MAX_CHARACTERS),
            "after": None if answer.after is None else clipped(answer.after, MAX_CHARACTERS),
            "same": answer.is_pair and not answer.changed,
        }
        for answer in answers[:MAX_ANSWERS]
    ]
    return {"rows": rows, "more": max(0, len(answers) - MAX_ANSWERS)}


def _probe(probe: Probe) -> dict[str, Any]:
    """A fixed question with its answers at some of the steps."""
    answers = probe.answers
    if len(answers) > MAX_PROBE_STEPS:
        last = len(answers) - 1
        answers = tuple(answers[round(index * last / (MAX_PROBE_STEPS - 1))] for index in range(MAX_PROBE_STEPS))
    return {
        "prompt": clipped(probe.prompt, MAX_CHARACTERS),
        "reference": clipped(probe.reference, MAX_CHARACTERS),
        "answers": [(step, clipped(text, MAX_CHARACTERS), remark) for step, text, remark in answers],
    }


def _rounds(data: RunData) -> dict[str, Any] | None:
    """The figures of each round of the fixed questions, as a table; a figure that no round has is no column."""
    rounds = data.of_kind("probe_metrics")
    columns = [column for column in ROUND if any(number(event.get(column[0])) is not None for event in rounds)]
    rows = [[f"{event['step']}", *[text(number(event.get(key))) for key, _, text in columns]] for event in rounds]
    return {"names": [name for _, name, _ in columns], "rows": rows} if columns else None


def _metrics(data: RunData) -> list[dict[str, str]]:
    """One row a number: before, after, which way it went, what it means."""
    held_out = [(measure, data.held_out(measure.key)) for measure in HELD_OUT]
    measured = [(measure_of(name), data.metric(name)) for name in data.metric_names()]
    measured.sort(key=lambda item: measure_rank(item[0]))
    return [
        {
            "name": measure.name,
            "before": measure_text(measure, change.before),
            "after": measure_text(measure, change.after),
            "movement": movement(measure, change),
            "meaning": measure.meaning,
        }
        for measure, change in [*held_out, *measured]
        if change.before is not None or change.after is not None
    ]


def _machine(data: RunData) -> Rows:
    """Speed, time, precision with its reason, batching, and how the run ended."""
    speed, seconds = data.tokens_per_second(), data.seconds()
    precision = data.plan.get("precision")
    precision = precision if isinstance(precision, dict) else {"name": precision}
    kind, reason = spoken(precision.get("name")), spoken(precision.get("reason"))
    layout, why = spoken(data.plan.get("layout")), spoken(data.plan.get("layout_reason"))
    learned, total = (number(inside(data.plan, f"parameters.{key}")) for key in ("learned", "total"))
    resumed = len(data.of_kind("resume"))
    rows = [
        ("速度", f"每秒 {count(speed)} 个词元 (不算补齐)" if speed else ""),
        ("训练用时", duration(seconds) if seconds else ""),
        ("步数", f"{data.last_step} / {data.planned_steps}" if data.planned_steps else str(data.last_step or "")),
        ("精度", f"{kind} ({reason})" if kind and reason else kind),
        ("底座的权重", LOADS.get(str(data.plan.get("load")), "")),
        ("学习的参数", f"{_millions(learned)} / {_millions(total)} 百万" if learned and total else ""),
        ("设备", spoken(data.plan.get("device"))),
        ("小批", f"{layout} ({why})" if layout and why else layout),
        ("中断后接着练", f"{resumed} 次" if resumed else ""),
        ("试答用时", duration(asking) if (asking := number(data.end.get("probe_seconds"))) else ""),
        ("结束", _ending(data) if data.events else ""),
    ]
    return [(name, text) for name, text in rows if text]


def _ending(data: RunData) -> str:
    """How the run ended, and which step is the result where that is not the last."""
    if not data.is_finished:
        return "没有跑完"
    ending = "提前停止, 验证损失不再下降" if data.stopped_early else "全部步数练完"
    return ending if data.kept_step in (None, data.last_step) else f"{ending}; 结果取第 {data.kept_step} 步"


def _millions(value: float) -> str:
    """A count of parameters in millions, with the digits that matter."""
    return f"{value / 1e6:,.1f}" if value >= 1e6 else f"{value / 1e6:.2f}"


def _commands(data: RunData) -> Rows:
    """What to type next, each command with what it does."""
    name, merged = quoted(data.name), quoted(f"{data.name}-merged")
    again = (f"hantune train {quoted(data.name + '/config.yaml')}", "同样的设置再练一遍, 放进新的文件夹")
    if not data.is_finished:
        return [(f"hantune resume {name}", "从最近的检查点接着练"), again]
    rows = [again, (f"hantune chat {name}", "和练好的模型聊天")]
    if data.setting("adapter.kind") in (None, "lora"):
        rows.append((f"hantune model merge {quoted(data.name + '/adapter')} --out {merged}", "合并成一个完整的模型"))
    return rows


def _versions(data: RunData) -> Rows:
    """env.json as rows, nested names joined with dots."""
    return _flat(inside(data.environment, "versions") or {}) + _flat(
        {key: value for key, value in data.environment.items() if key != "versions"}
    )


def _flat(value: Any, prefix: str = "") -> Rows:
    """``{"a": {"b": 1}}`` as ``[("a.b", "1")]``, sorted by name."""
    if not isinstance(value, dict):
        return [(prefix, clipped(spoken(value), MAX_CHARACTERS))] if prefix and value not in (None, "", []) else []
    start = f"{prefix}." if prefix else ""
    return [row for key in sorted(value, key=str) for row in _flat(value[key], f"{start}{key}")]
