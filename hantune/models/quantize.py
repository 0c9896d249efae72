"""Models in 8 or 4 bits through bitsandbytes, and what 4 bits make of a weight.

4 bits: NF4 (arXiv:2305.14314), 16 levels for each run of 64 weights, scaled by the largest of them; with double
quantisation the scales are stored in 8 bits.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hantune.errors import ConfigError, MachineError, ModelError

# The first calls for a package of faster CPU kernels that it would load over the network, even when only PEFT imports
# it; the second says at each layer and token that 8 bits are computed from 16.
for _name in ("bitsandbytes.backends.cpu.ops", "bitsandbytes.autograd._functions"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)

LOADS = ("full", "8bit", "4bit")
"""What ``--load`` takes."""


@dataclass(frozen=True, kw_only=True)
class Nf4:
    """How a base was quantised while an adapter was trained on it."""

    dtype: torch.dtype = torch.bfloat16
    """What the weights were in before and came back to in each layer."""
    double: bool = True
    block: int = 64

    def as_dict(self) -> dict[str, Any]:
        """What ``hantune.json`` keeps under ``quantization``."""
        dtype = str(self.dtype).removeprefix("torch.")
        return {"type": "nf4", "dtype": dtype, "double": self.double, "block": self.block}


def recorded(record: Mapping[str, Any] | None, place: str) -> Nf4 | None:
    """What an adapter's record says of the base in training; None where it was in full precision.

    Raises: ModelError ``adapter.bad-record`` for a kind of quantisation that is not known here.
    """
    entry = (record or {}).get("quantization")
    if entry is None:
        return None
    try:
        found = Nf4(dtype=getattr(torch, entry["dtype"]), double=bool(entry["double"]), block=int(entry["block"]))
        if entry["type"] != "nf4":
            raise ValueError(entry["type"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(
            "adapter.bad-record",
            "hantune.json 里的 quantization 读不懂: 不完整, 或者来自更新的 hantune",
            place=place,
            hint="升级 hantune, 或者从训练的运行文件夹重新拷一份",
        ) from error
    return found


def round_trip(weight: Tensor, how: Nf4) -> Tensor:
    """The weight as training saw it: to 4 bits and back, in ``how.dtype``.

    Raises: MachineError ``machine.no-bitsandbytes``.
    """
    functional = _library("bitsandbytes.functional")
    packed, state = functional.quantize_4bit(
        weight.to(how.dtype), quant_type="nf4", blocksize=how.block, compress_statistics=how.double
    )
    restored: Tensor = functional.dequantize_4bit(packed, state)
    return restored


def loading_config(load: str, dtype: torch.dtype) -> Any:
    """What ``from_pretrained`` takes as ``quantization_config``; None for ``full``. ``dtype``: of the arithmetic.

    Raises: ConfigError ``model.unknown-load``; MachineError ``machine.no-bitsandbytes``.
    """
    if load not in LOADS:
        raise ConfigError(
            "model.unknown-load",
            f"没有这种读法: {load}; 可以写: {'、'.join(LOADS)}",
            place="--load",
            hint="4bit 最省内存, 8bit 居中, full 是原来的精度 (不写就是它)",
        )
    if load == "full":
        return None
    from transformers import BitsAndBytesConfig

    _library("bitsandbytes")
    if load == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def _library(name: str) -> Any:
    """bitsandbytes or a part of it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MachineError(
            "machine.no-bitsandbytes",
            "没有装 bitsandbytes: 4 比特和 8 比特要用它 (CPU 和 NVIDIA 显卡都行)",
            hint='装上它: pip install "bitsandbytes>=0.50"; 或者不写 --load, 用原来的精度',
        ) from error
