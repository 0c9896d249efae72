"""In which numbers a run computes, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch

from hantune.errors import ConfigError, MachineError
from hantune.models.call import evaluating

MIN_BF16_PARAMETERS = 30_000_000
"""Below this a CPU spends its time outside the matrix products, and bf16 wins nothing (docs/decisions.md)."""

Asked = Literal["auto", "float32", "bf16", "fp16"]


@dataclass(frozen=True, kw_only=True)
class Precision:
    """``weights``: dtype of the frozen base (what is trained is float32). ``compute``: dtype of the products."""

    name: str
    weights: torch.dtype
    compute: torch.dtype
    reason: str

    @property
    def needs_autocast(self) -> bool:
        """Whether products must be cast from the weights' type; fp16 has accelerate scale the loss as well."""
        return self.weights != self.compute or self.compute == torch.float16

    @property
    def is_wide(self) -> bool:
        """Whether all is computed in float32."""
        return self.compute == torch.float32

    def as_dict(self) -> dict[str, Any]:
        """For ``plan.json``."""
        return {"name": self.name, "weights": str(self.weights).removeprefix("torch."), "reason": self.reason}


def choose_device(asked: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """The device to compute on; a card counts only if a kernel really runs on it.

    Raises: MachineError ``machine.no-cuda`` when a card was asked for and none works.
    """
    if asked == "cpu":
        return torch.device("cpu")
    if torch.cuda.is_available():
        try:
            torch.ones(8, device="cuda").sum().item()
        except RuntimeError as error:
            if asked == "cuda":
                raise MachineError(
                    "machine.no-cuda",
                    f"看得到显卡, 但算不了: {error}",
                    hint="train.device=cpu, 或装与驱动相配的 PyTorch",
                ) from error
        else:
            return torch.device("cuda")
    if asked == "cuda":
        raise MachineError("machine.no-cuda", "这个 PyTorch 看不到显卡", hint="train.device=cpu, 或装 CUDA 版 PyTorch")
    return torch.device("cpu")


@dataclass(frozen=True)
class Units:
    """What multiplies matrices. ``capability``: of a card, (major, minor); None on a CPU."""

    capability: tuple[int, int] | None
    has_bf16: bool


def units_of(device: torch.device) -> Units:
    """The units of a device that is there."""
    if device.type != "cuda":
        return Units(None, cpu_has_bf16())
    capability = torch.cuda.get_device_capability(device)
    return Units(capability, capability >= (8, 0))


def choose_precision(asked: Asked, device: torch.device, *, is_adapter: bool, num_parameters: int) -> Precision:
    """The precision for this machine and model, with its reason in Chinese. A pure function of machine and arguments.

    Raises: ConfigError ``train.fp16-on-cpu``.
    """
    if asked == "fp16" and device.type == "cpu":
        hint = "train.precision=auto; 接着练用 fp16 开始的训练, 要在有显卡的机器上"
        raise ConfigError("train.fp16-on-cpu", "CPU 上不能用 fp16", place="train.precision", hint=hint)
    if asked == "auto":
        return precision_of(*automatic(units_of(device), is_adapter, num_parameters), is_adapter=is_adapter)
    return precision_of(asked, "配置里指定的", is_adapter=is_adapter)


def precision_of(name: str, reason: str, *, is_adapter: bool) -> Precision:
    """The dtypes behind a name. A frozen base is held in the type of the products; what is learned never is."""
    compute = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[name]
    weights = compute if is_adapter else torch.float32
    return Precision(name=name, weights=weights, compute=compute, reason=reason)


def automatic(units: Units, is_adapter: bool, num_parameters: int) -> tuple[str, str]:
    """Name and reason: bf16 where it is fast, fp16 with a loss scaler on V100 and T4, else float32."""
    if units.capability is not None:
        card = f"显卡计算能力 {units.capability[0]}.{units.capability[1]}"
        if units.has_bf16:
            return "bf16", f"{card}, 有 bf16 矩阵单元"
        if units.capability >= (7, 0):
            return "fp16", f"{card}, 没有 bf16 单元; 用 fp16, 适配器保持 float32, 并缩放损失"
        return "float32", f"{card}, 没有半精度的矩阵单元, 用 fp16 反而慢, 也容易变成 NaN"
    if not units.has_bf16:
        return "float32", "这个 CPU 没有 bf16 指令, 用 bf16 反而更慢"
    if num_parameters < MIN_BF16_PARAMETERS:
        return "float32", f"模型只有 {num_parameters / 1e6:.1f} 百万参数, bf16 省不了时间"
    if not is_adapter:
        return "float32", "训练全部参数时 CPU 用 float32 最稳"
    return "bf16", "CPU 有 bf16 指令 (AVX512-BF16 或 AMX), 矩阵乘法约快一倍; 适配器保持 float32"


def cpu_has_bf16() -> bool:
    """Whether the CPU multiplies bf16 matrices in hardware."""
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)


def bears_fp16(model: Any, tokens_BT: torch.Tensor) -> bool:
    """Whether a model in fp16 gives numbers at all: some were made in bf16 and go beyond 65,504 (trap D1)."""
    with evaluating(model), torch.no_grad(), torch.autocast(tokens_BT.device.type, torch.float16):
        return bool(model(input_ids=tokens_BT, use_cache=False).logits.isfinite().all())
