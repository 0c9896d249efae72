"""The figures of ``hantune data stats`` as one HTML file, made like the report of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hantune import __version__
from hantune.data.counts import classes_of
from hantune.data.language import HOW, LANGUAGES, WORDS
from hantune.data.stats_text import percent, repeated
from hantune.data.tally import LIMITS
from hantune.paths import write_file
from hantune.report.pages import page_template
from hantune.report.plots import histogram
from hantune.report.words import count, decimal

Figures = Mapping[str, Any]
LENGTHS = (
    ("turns", "轮数", "一段对话有几问几答"),
    ("question_characters", "问题", "字"),
    ("answer_characters", "回答", "字"),
    ("utterance_characters", "每句话", "字, 问和答都算"),
    ("dialogue_characters", "整段对话", "字"),
)
"""Name in the figures, what it is called, its unit."""
CHARTS = (
    ("answer_characters", "回答的长度", "字"),
    ("utterance_characters", "每句话的长度", "字, 问和答都算"),
    ("dialogue_characters", "整段对话的长度", "字"),
    ("turns", "轮数", "一问一答算一轮"),
)


def write_data_page(result: Figures, name: str, out: Path) -> Path:
    """The path of the page: ``out``, or ``stats.html`` in it where it is a folder.

    Raises: MachineError ``machine.disk-full``, ``machine.no-write``.
    """
    path = out / "stats.html" if out.is_dir() else out
    write_file(path, render(result, name).encode("utf-8", "replace"))
    return path


def render(result: Figures, name: str) -> str:
    """The whole page as text; the same figures give the same text. ``name``: of the data; its folder is not told."""
    return page_template("data_page.html").render(
        name=Path(name).name or name,
        version=__version__,
        tone="",
        headline=_headline(result),
        parts=_parts(result),
        tiles=_tiles(result),
        notes=result["warnings"],
        charts=[_chart(result[key], key, title, unit) for key, title, unit in CHARTS],
        lengths=[(title, unit, _row(result[key])) for key, title, unit in LENGTHS],
        languages=[_mix("问题", result["languages"]["questions"]), _mix("回答", result["languages"]["answers"])],
        words=[WORDS[language] for language in LANGUAGES],
        how=HOW,
        duplicates=repeated(result["duplicates"]),
        models=[_model(tokens) for tokens in result.get("tokens", [])],
        limits=LIMITS,
    )


def _headline(result: Figures) -> list[str]:
    answers, turns = result["answer_characters"], result["turns"]
    return [
        f"{count(result['conversations'])} 段对话,",
        f"平均 {decimal(turns['mean'])} 轮,",
        f"一半的回答不超过 {count(answers['median'])} 个字.",
    ]


def _parts(result: Figures) -> str:
    parts = (
        f"训练 {count(result['train'])} 段, 验证 {count(result['val'])} 段."
        if result["val"]
        else "还没有划分训练和验证."
    )
    return parts + (f" {count(result['with_system'])} 段有系统提示." if result["with_system"] else "")


def _tiles(result: Figures) -> list[tuple[str, str]]:
    return [
        ("回答里汉字占", percent(result["chinese_share"])),
        ("不到 8 个字的回答", percent(result["short_answers"])),
        ("重复的对话", percent(result["duplicates"]["share"])),
        ("字数 (问和答)", count(result["utterance_characters"]["total"])),
    ]


def _chart(summary: Figures, salt: str, title: str, unit: str, limits: Sequence[int] = ()) -> dict[str, Any]:
    """A figure for the page: title, unit, drawing."""
    from markupsafe import Markup

    return {"title": title, "unit": unit, "svg": Markup(histogram(classes_of(summary), salt, title, limits))}


def _row(summary: Figures) -> list[str]:
    """Mean, median, three quantiles, maximum."""
    return [decimal(summary["mean"]), *(count(summary[name]) for name in ("median", "p90", "p95", "p99", "max"))]


def _mix(title: str, shares: Figures) -> dict[str, Any]:
    """The languages of one side: (name, share, text) for those that occur."""
    found = [(WORDS[name], shares[name]) for name in LANGUAGES if shares[name]]
    return {"title": title, "parts": [(word, f"{100 * part:.2f}", percent(part)) for word, part in found]}


def _model(tokens: Figures) -> dict[str, Any]:
    """One tokenizer: its figures as texts and its two charts."""
    return {
        "name": tokens["model"],
        "about": f"词表 {count(tokens['vocabulary'])}, 模板 {tokens['template']}",
        "per_character": f"{tokens['per_character']:.2f}",
        "supervised": percent(tokens["supervised_share"]),
        "samples": _row(tokens["samples"]),
        "answers": _row(tokens["answers"]),
        "total": count(tokens["samples"]["total"]),
        "cut": [percent(part) for part in tokens["cut"].values()],
        "dropped": count(tokens["dropped"]) if tokens["dropped"] else "",
        "charts": [
            _chart(tokens["samples"], f"samples-{tokens['model']}", "一条样本的长度", "词元", LIMITS),
            _chart(tokens["answers"], f"answers-{tokens['model']}", "一个回答的长度", "词元"),
        ],
    }
