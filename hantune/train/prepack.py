"""Whether a run prepacks its frozen weights: quicker products for memory."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import nn

from hantune.config.schema import RunConfig
from hantune.log import size
from hantune.models.prepack import pays, prepack
from hantune.train.frozen import compute_densely
from hantune.train.recompute import MARGIN, Recompute


@dataclass(frozen=True, kw_only=True)
class Prepack:
    """``is_on``: the frozen linear layers lie as oneDNN multiplies them (``models/prepack``)."""

    is_on: bool
    reason: str

    def as_dict(self) -> dict[str, Any]:
        """For ``plan.json``."""
        return asdict(self)


Asked = Literal["auto"] | bool
NEVER = Prepack(is_on=False, reason="开始训练时还没有这个做法")
"""Of a run that began before there was this."""


def choose_prepack(
    asked: Asked, obstacle: str | None, recompute: Recompute, *, predicted: int, available: int | None
) -> Prepack:
    """What to do, with its reason in Chinese.

    ``obstacle``: why there is nothing to gain; ``predicted``: bytes of the peak with prepacked weights; ``available``:
    bytes there are, None where nobody knows.
    """
    if asked is False:
        return Prepack(is_on=False, reason="配置里关掉了")
    if obstacle is not None:
        return Prepack(is_on=False, reason=obstacle)
    if asked is True:
        return Prepack(is_on=True, reason="配置里指定的")
    if recompute.is_on:
        return Prepack(is_on=False, reason="重算是用时间换内存, 就不另占内存; 要排就写 train.prepack=true")
    if available is None:
        return Prepack(is_on=True, reason=f"矩阵乘法更快; 预排权重以后最多要 {size(predicted)}")
    figures = f"预排权重以后最多要 {size(predicted)}, 能用的有 {size(available)}"
    if predicted <= MARGIN * available:
        return Prepack(is_on=True, reason=f"矩阵乘法更快; {figures}: 放得下")
    return Prepack(is_on=False, reason=f"{figures}: 放不下")


def obstacle_to(config: RunConfig, device: torch.device, dtype: torch.dtype) -> str | None:
    """Why a run would gain nothing from prepacked weights; None where it would. ``dtype``: of the frozen weights."""
    if device.type != "cpu":
        return "显卡用不着"
    if config.adapter.kind != "lora":
        return "全部参数都在学, 没有不变的权重"
    if config.model.load != "full":
        return "底座压过, 权重每次现算"
    return None if pays(dtype) else "在这台机器上并不更快"


def carried_out(chosen: Prepack, model: nn.Module) -> Prepack:
    """What has been done to the model; off where it cannot be done to this one."""
    if not chosen.is_on:
        return chosen
    if prepack(model, is_trained=True) == 0:
        return Prepack(is_on=False, reason="这个模型预排以后算得不一样, 或者没有不变的权重")
    compute_densely(model)
    return chosen
