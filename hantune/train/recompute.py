"""Whether the intermediate results of the layers are kept for the backward pass or computed again there."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from hantune.log import size

MARGIN = 0.9
"""The share of the free memory that a prediction may fill: it is off by some per cent."""

Asked = Literal["auto"] | bool


@dataclass(frozen=True, kw_only=True)
class Recompute:
    """``is_on``: computed again. On a CPU no bit of a loss or gradient changes; it costs about a third more time."""

    is_on: bool
    reason: str

    def as_dict(self) -> dict[str, Any]:
        """For ``plan.json``."""
        return asdict(self)


def choose_recompute(asked: Asked, *, predicted: int | None = None, available: int | None = None) -> Recompute:
    """What to do, with its reason in Chinese.

    ``predicted``: bytes of the peak while everything is kept; ``available``: bytes there are. None: not known.
    """
    if asked != "auto":
        return Recompute(is_on=asked, reason="配置里指定的")
    if predicted is None or available is None:
        return Recompute(is_on=False, reason="没有预计内存; 不重算更快")
    figures = f"中间结果全留着预计要 {size(predicted)}, 能用的有 {size(available)}"
    if predicted <= MARGIN * available:
        return Recompute(is_on=False, reason=f"{figures}: 放得下, 不重算更快")
    return Recompute(is_on=True, reason=f"{figures}: 放不下, 用大约三成的时间换内存")
