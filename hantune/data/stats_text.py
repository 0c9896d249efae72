"""The figures of ``stats.py`` in words: a page for a terminal (GBK consoles among them), a section of ``card.md``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hantune.data.counts import bars, classes_of
from hantune.data.language import LANGUAGES, WORDS
from hantune.data.tally import SHORT_ANSWER

Figures = Mapping[str, Any]
HISTOGRAMS = {
    "answer_characters": "回答的长度 (字)",
    "dialogue_characters": "一段对话的长度 (字, 问答合计)",
    "turns": "轮数 (一问一答算一轮)",
}


def as_text(result: Figures) -> str:
    """The figures as lines; the warnings stand last."""
    lines = [_size(result), *(f"{name}  {text}" for name, text in _rows(result))]
    for tokens in result.get("tokens", []):
        lines += ["", *_tokens(tokens)]
    for key, title in HISTOGRAMS.items():
        lines += ["", title, *bars(classes_of(result[key]))]
    for tokens in result.get("tokens", []):
        lines += ["", f"一条样本的长度 (词元, {tokens['model']})", *bars(classes_of(tokens["samples"]))]
    lines += ["", *(f"! {warning}" for warning in result["warnings"])] if result["warnings"] else []
    return "\n".join(lines)


def as_markdown(found: Figures) -> list[str]:
    """What ``sketch`` found, as lines of a page."""
    how = f"轮数, 长度和语言按均匀抽出的 {found['sampled']:,} 段算, " if found["sampled"] < found["rows"] else ""
    return [
        "| | |",
        "|---|---|",
        *(f"| {name.strip()} | {text} |" for name, text in _rows(found)),
        "",
        "回答的长度 (字, 多少个, 占多少):",
        "",
        "```",
        *bars(classes_of(found["answer_characters"])),
        "```",
        "",
        f"{how}都只算训练部分. 更多的数字: `hantune data stats DIR --model 模型文件夹 --out stats.html`.",
    ]


def _size(result: Figures) -> str:
    parts = f"训练 {result['train']:,}, 验证 {result['val']:,}" if result["val"] else "还没有划分训练和验证"
    system = f", {result['with_system']:,} 段有系统提示" if result["with_system"] else ""
    return f"对话    {result['conversations']:,} 段 ({parts}){system}"


def _rows(result: Figures) -> list[tuple[str, str]]:
    """The figures that need no tokenizer: what they are of, and they."""
    return [
        ("轮数  ", spread(result["turns"])),
        ("问题  ", spread(result["question_characters"], " 字")),
        ("回答  ", spread(result["answer_characters"], " 字")),
        ("短回答", f"不到 {SHORT_ANSWER} 个字的占 {percent(result['short_answers'])}"),
        ("提问用", mix(result["languages"]["questions"])),
        ("回答用", mix(result["languages"]["answers"])),
        ("重复  ", repeated(result["duplicates"])),
    ]


def spread(summary: Figures, unit: str = "") -> str:
    """``平均 8.3 字, 中位 6, 95% 不超过 21, 最多 109``."""
    return (
        f"平均 {summary['mean']:,}{unit}, 中位 {summary['median']:,}, "
        f"95% 不超过 {summary['p95']:,}, 最多 {summary['max']:,}"
    )


def mix(shares: Figures) -> str:
    """``中文 93.0%, 中英混合 7.0%``; what does not occur is left out."""
    return ", ".join(f"{WORDS[name]} {percent(shares[name])}" for name in LANGUAGES if shares[name]) or "─"


def repeated(found: Figures) -> str:
    """How many conversations equal an earlier one."""
    if not found["count"]:
        return "没有相同的对话"
    return f"{found['count']:,} 段和前面的相同 ({percent(found['share'])}), 同一段最多出现 {found['most']:,} 次"


def percent(value: float) -> str:
    """``93.1%``; ``0%`` and ``100%`` are exact, what is near them is ``<0.1%`` and ``>99.9%``."""
    if 0 < value < 0.0005:
        return "<0.1%"
    if 0.9995 < value < 1:
        return ">99.9%"
    return f"{value:.0%}" if value in (0, 1) else f"{value:.1%}"


def _tokens(tokens: Figures) -> list[str]:
    """The figures of one tokenizer."""
    cut = ", ".join(f"{limit} 时 {percent(part)}" for limit, part in tokens["cut"].items())
    lost = f"; {tokens['dropped']:,} 段没有要学的回答" if tokens["dropped"] else ""
    return [
        f"分词器  {tokens['model']} (词表 {tokens['vocabulary']:,}, 模板 {tokens['template']})",
        f"中文    每个字 {tokens['per_character']:.2f} 个词元",
        f"样本    {spread(tokens['samples'], ' 个词元')}, 共 {tokens['samples']['total']:,}{lost}",
        f"要学的  占 {percent(tokens['supervised_share'])} (只学回答); 一个回答{spread(tokens['answers'], ' 个词元')}",
        f"截断    max_tokens 为 {cut} 的回答会被截断或去掉",
    ]
