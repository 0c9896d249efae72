"""Compiling the element-wise formulas, when a run is long enough for a trial to be worth its time.

Compiling whole layers brought nothing on a CPU (notes, cpu_baselines 4): nearly all of their time is matrix products.
What a compiler wins is the passes between them, so only those are given to it; that takes seconds instead of a minute,
and lengths that change from step to step do not make it start again.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from hantune.log import console
from hantune.train import formulas
from hantune.train.formulas import EAGER, PLAIN, Formulas

MIN_SECONDS = 1200.0
"""A run expected to be shorter is not worth the trial: about 20 seconds for some 5 % of the time."""

COMPILERS = ("c++", "g++", "clang++", "cl")


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which formulas a run computes with, and why (Chinese)."""

    is_compiled: bool
    reason: str

    def as_dict(self) -> dict[str, Any]:
        """For ``plan.json``."""
        return asdict(self)


def choose(asked: str, *, seconds: float | None, shape: tuple[int, int, int], like: Tensor) -> Choice:
    """Decide, and put the formulas into use.

    ``asked``: ``auto``, ``on`` or ``off``; ``seconds``: how long the run will take, if known; ``shape``: tokens of a
    typical micro-batch, model width, MLP width; ``like``: a tensor of the run's dtype and device.
    """
    formulas.use(EAGER)
    if asked == "off":
        return Choice(is_compiled=False, reason="配置里关掉了")
    if asked == "auto" and (seconds is None or seconds < MIN_SECONDS):
        return Choice(is_compiled=False, reason=f"训练不到 {MIN_SECONDS / 60:.0f} 分钟, 编译不合算")
    if like.device.type == "cpu" and not any(map(shutil.which, COMPILERS)):
        return Choice(is_compiled=False, reason="没有 C++ 编译器 (g++ 或 clang)")
    console.say("试编译逐元素的运算 (约 20 秒)")
    try:
        made = compile_formulas()
        ours, theirs = (_seconds(kind, shape, like) for kind in (made, EAGER))
    except Exception as error:  # a compiler can fail in any way, and the run does not need it
        return Choice(is_compiled=False, reason=f"编译不成: {type(error).__name__}")
    if asked == "auto" and ours > 0.9 * theirs:
        return Choice(is_compiled=False, reason=f"试过: 编译后的用时是原来的 {ours / theirs:.2f} 倍, 不合算")
    formulas.use(made)
    return Choice(is_compiled=True, reason=f"试过: 逐元素的运算只用原来 {ours / theirs:.2f} 倍的时间")


def restore(choice: Choice) -> Choice:
    """Put into use what a run that goes on computed with before: another form would round differently."""
    formulas.use(compile_formulas() if choice.is_compiled else EAGER)
    return choice


def compile_formulas(backend: str = "inductor") -> Formulas:
    """The plain formulas, each to become one kernel for all lengths at its first call."""
    import torch._inductor.config as settings

    settings.compile_threads = 1  # no pool of compiler processes that outlives the run
    return Formulas(*(torch.compile(formula, dynamic=True, backend=backend) for formula in PLAIN))


def _seconds(kind: Formulas, shape: tuple[int, int, int], like: Tensor) -> float:
    """The best of three passes over one layer's formulas; the first call, which compiles, does not count."""
    tokens, width, inner = shape
    draw = torch.Generator().manual_seed(0)

    def random(*size: int) -> Tensor:
        return torch.randn(size, generator=draw).to(like)

    x, weight, gate, up = random(1, tokens, width), random(width), random(1, tokens, inner), random(1, tokens, inner)
    heads, angles = random(tokens, max(1, width // 64), 64), random(tokens, 64)
    times = []
    for _ in range(4):
        start = time.perf_counter()
        for _ in range(2):
            y, inverse = kind.norm(x, weight, 1e-5)
            kind.d_norm(y, x, inverse, weight)
            kind.turn(heads, angles, angles)
            kind.turn(heads, angles, angles)
        kind.swiglu(gate, up)
        kind.d_swiglu(up, gate, up)
        if like.device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times[1:])
