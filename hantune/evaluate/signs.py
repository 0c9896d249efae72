"""Bad signs in the answers of a run that is under way, and what to do about each. Warnings, never errors."""

from __future__ import annotations

from typing import NamedTuple

from hantune.evaluate.probes import Figures

FIRST_JUDGED = 0.3
"""Before this share of the steps a model may still babble."""
FEWEST = 3
"""Fewer answers than this tell nothing."""
MUCH, MOST = 0.5, 0.8
"""From half of the answers on something is wrong; four fifths of Han in the data make it Chinese data."""


class Sign(NamedTuple):
    """``code`` names it in events.jsonl; ``text`` says it with advice."""

    code: str
    text: str


def bad_signs(found: Figures, *, progress: float, data_chinese: float, judges_stops: bool) -> list[Sign]:
    """What the round tells after ``progress`` (0 to 1) of the steps; ``data_chinese``: share of Han in learned text.

    ``judges_stops``: whether answers had room enough to end.
    """
    if progress < FIRST_JUDGED or found.count < FEWEST:
        return []
    signs = []
    if found.empty_share >= MUCH:
        signs.append(
            Sign(
                "probe.empty",
                f"{found.times(found.empty_share)} 个回答是空的 (只有结束符或空白). "
                "用 hantune data look 看看数据里的回答是不是空的, 再看 template.name "
                "是不是底座的模板; 都对就是练得还少",
            )
        )
    elif judges_stops and found.stop_rate == 0:
        signs.append(
            Sign(
                "probe.no-stop",
                "没有一个回答会自己收尾: 结束符可能没学到. 用 hantune data check 看结束符是不是要学的 (绿色), "
                "再看 template.name 和底座是不是一致; 都对就是练得还少",
            )
        )
    if found.repetition >= MUCH:
        signs.append(
            Sign(
                "probe.repetition",
                f"{found.times(found.repetition)} 个回答卡在同一段话上: 学习率可能太大 (把 train.learning_rate 减半), "
                "或者练过头了 (把 train.epochs 改小)",
            )
        )
    elif found.different == 1 and found.empty_share < MUCH:
        signs.append(
            Sign(
                "probe.same",
                "不同的问题得到一模一样的回答: 学习率可能太大 (把 train.learning_rate 减半), 或者数据里的回答太单调",
            )
        )
    if (found.memorised_held_out or 0) >= MUCH:
        signs.append(
            Sign(
                "probe.memorised",
                f"没练过的问题, 有 {found.memorised_held_out:.0%} 的回答和训练数据里的原话一字不差: 在背原文. "
                "把 train.epochs 改小, 多给些数据, 或设 train.final=best",
            )
        )
    if data_chinese >= MOST and found.chinese_share < MUCH and found.empty_share < MUCH:
        signs.append(
            Sign(
                "probe.not-chinese",
                f"数据里的回答是中文, 现在的回答只有 {found.chinese_share:.0%} 是中文: 底座的中文可能太弱. "
                "换一个学过中文的底座, 或多给些数据, 多练几遍",
            )
        )
    return signs
