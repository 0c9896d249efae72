"""The Chinese of reports: numbers as text, and what each number and each dropped record means, in one sentence."""

from __future__ import annotations

from typing import Any, NamedTuple

from hantune.data.card import REASONS
from hantune.report.data import Change, number


class Measure(NamedTuple):
    """A number of an evaluation: its name, what it means, which way is better (-1 lower, +1 higher, 0 neither)."""

    key: str
    name: str
    meaning: str
    better: int = 0
    is_share: bool = False


HELD_OUT = (
    Measure("loss", "验证损失", "模型对没见过的回答有多意外 (nats/词元). 越低越好, 0 是全部猜中.", -1),
    Measure("perplexity", "困惑度", "每写一个词元, 相当于在多少个候选里犹豫. 越低越好.", -1),
    Measure("bits_per_character", "每字比特", "猜中一个字平均还差多少比特; 换了分词器也能比. 越低越好.", -1),
)
"""What ``held_out`` of evaluation.json may hold."""

METRICS = (
    Measure("bleu", "字 BLEU", "回答里有多少连着的字和参考答案一样, 满分 100.", 1),
    Measure("rouge_l", "字 ROUGE-L", "回答和参考答案按同样顺序出现的字占多少, 满分 100.", 1),
    Measure("chrf", "chrF", "按字的片段比相似, 比 BLEU 更能容忍换说法, 满分 100.", 1),
    Measure("exact_match", "完全相同", "和参考答案一字不差的回答占多少.", 1, is_share=True),
    Measure("distinct_1", "distinct-1", "不重复的字占多少. 太低说明翻来覆去就几个字."),
    Measure("distinct_2", "distinct-2", "不重复的两字组合占多少. 太低说明总说同一句."),
    Measure("stop_rate", "自己停下", "多少回答是说完后自己停的, 不是被长度上限截断的.", 1, is_share=True),
    Measure("chinese_share", "中文比例", "回答的字里有多少是汉字.", is_share=True),
    Measure("repetition", "卡住重复", "多少回答卡在同一段话上反复说. 越低越好.", -1, is_share=True),
    Measure("mean_length", "平均长度", "每个回答平均多少字."),
    Measure("empty_share", "空回答", "什么也没说的回答占多少. 越低越好.", -1, is_share=True),
    Measure("length_ratio", "长度比", "回答的总字数除以参考答案的总字数. 接近 1 最自然."),
    Measure("count", "问题数", "问了多少个问题. 越少, 上面的数字越不准."),
)
"""What ``metrics`` of evaluation.json may hold; a name that is not here is shown as it is."""


LOADS = {"8bit": "8 比特", "4bit": "4 比特 (NF4, 双重量化)", "fp8": "8 比特浮点 (FP8)"}
"""How the base was held in training, where not as it is stored."""


def decimal(value: float | None) -> str:
    """A number with three or four digits that matter: ``12,345``, ``167``, ``16.7``, ``1.08``, ``0.123``, or ``─``."""
    if value is None:
        return "─"
    size = abs(value)
    if isinstance(value, int) or size == 0 or size >= 100:
        return f"{value:,.0f}"
    if size >= 10:
        return f"{value:.1f}"
    if size >= 1:
        return f"{value:.2f}"
    return f"{value:.3f}" if size >= 0.001 else f"{value:.1e}"


def share(value: float | None) -> str:
    """A share from 0 to 1 as ``93%``; ``─`` for None."""
    if value is None:
        return "─"
    percent = 100 * value
    return f"{percent:.1f}%" if 0 < percent < 10 and percent != round(percent) else f"{percent:.0f}%"


def count(value: Any) -> str:
    """A count with thousands marks: ``1,946``; ``─`` when it is no number."""
    known = number(value)
    return "─" if known is None else f"{known:,.0f}"


def measure_text(measure: Measure, value: float | None) -> str:
    """The number as its measure is read."""
    return share(value) if measure.is_share else decimal(value)


def movement(measure: Measure, change: Change) -> str:
    """``变好``, ``变差``, ``没变``, or nothing where neither way is better or a side is missing."""
    if not measure.better or change.before is None or change.after is None:
        return ""
    if measure_text(measure, change.before) == measure_text(measure, change.after):
        return "没变"
    return "变好" if (change.after - change.before) * measure.better > 0 else "变差"


def measure_of(key: str) -> Measure:
    """The measure of a name in ``metrics``; one that is not known has its key for a name and no meaning."""
    return next((measure for measure in METRICS if measure.key == key), Measure(key, key, ""))


def measure_rank(measure: Measure) -> tuple[int, str]:
    """Where a metric stands in a table: in the order of ``METRICS``, unknown ones last and by name."""
    return (METRICS.index(measure) if measure in METRICS else len(METRICS), measure.key)


def dropped_reason(code: str) -> str:
    """What a reason of the manifest says in Chinese, or nothing for one that is not known."""
    return REASONS.get(code, "")


def clipped(text: str, limit: int) -> str:
    """At most ``limit`` characters of ``text``, then how many are left out."""
    return text if len(text) <= limit else f"{text[:limit]}… (还有 {len(text) - limit:,} 个字)"
