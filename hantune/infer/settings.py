"""The settings of an answer by the names people type, described once for the command line and for ``/params``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Setting:
    """``field`` of ``SamplingParams``, the ``kind`` of its value, and its meaning."""

    field: str
    kind: type[int] | type[float]
    meaning: str


SETTINGS = {
    "max_new_tokens": Setting("max_tokens", int, "一次回答最多多少个词元"),
    "temperature": Setting("temperature", float, "0 = 每次都选最可能的; 越大越多变"),
    "top_p": Setting("top_p", float, "只从累计概率达到它的词元里选; 1 = 不限"),
    "top_k": Setting("top_k", int, "只从最可能的这么多个词元里选; 0 = 不限"),
    "repetition_penalty": Setting("repetition_penalty", float, "提示和回答里出现过的词元变难选; 1 = 不惩罚"),
    "frequency_penalty": Setting("frequency_penalty", float, "回答里出现得越多越难选; 0 = 不惩罚"),
    "presence_penalty": Setting("presence_penalty", float, "回答里出现过就难选; 0 = 不惩罚"),
    "seed": Setting("seed", int, "随机种子; none = 每次不同"),
}
