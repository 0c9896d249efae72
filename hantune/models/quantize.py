"""Models in 8 or 4 bits through bitsandbytes, in 8-bit floats (``models/fp8``), and what fewer bits make of a weight.

4 bits: NF4 (arXiv:2305.14314), 16 levels for each run of 64 weights, scaled by the largest of them; with double
quantisation the scales are stored in 8 bits. 8 bits: 255 even levels for each row, scaled by its largest weight.
Shape letters: O outputs, I inputs of a linear layer.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hantune.errors import ConfigError, MachineError, ModelError
from hantune.models import fp8
from hantune.models.call import bare_model

# The first calls for a package of faster CPU kernels that it would load over the network, even when only PEFT imports
# it; the second says at each layer and token that 8 bits are computed from 16.
for _name in ("bitsandbytes.backends.cpu.ops", "bitsandbytes.autograd._functions"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)

LOADS = ("full", "8bit", "4bit")
"""What ``--load`` takes."""


@dataclass(frozen=True, kw_only=True)
class Nf4:
    """How a base was quantised while an adapter was trained on it: 4 bits."""

    dtype: torch.dtype = torch.bfloat16
    """What the weights were in before and came back to in each layer."""
    double: bool = True
    block: int = 64
    load: ClassVar[str] = "4bit"

    def as_dict(self) -> dict[str, Any]:
        """What ``hantune.json`` keeps under ``quantization``."""
        return {"type": "nf4", "dtype": _dtype_name(self.dtype), "double": self.double, "block": self.block}


@dataclass(frozen=True, kw_only=True)
class Int8:
    """How a base was quantised while an adapter was trained on it: 8 bits."""

    dtype: torch.dtype = torch.bfloat16
    """What the weights were in before and came back to in each layer."""
    load: ClassVar[str] = "8bit"

    def as_dict(self) -> dict[str, Any]:
        """What ``hantune.json`` keeps under ``quantization``."""
        return {"type": "int8", "dtype": _dtype_name(self.dtype)}


@dataclass(frozen=True, kw_only=True)
class Fp8:
    """How a base was rounded while an adapter was trained on it: 8-bit floats."""

    dtype: torch.dtype = torch.bfloat16
    """What the weights were in before."""
    load: ClassVar[str] = "full"
    """Only training computes with 8 bits: where answers are given, the rounded weights are held in full."""

    def as_dict(self) -> dict[str, Any]:
        """What ``hantune.json`` keeps under ``quantization``."""
        return {"type": "fp8", "dtype": _dtype_name(self.dtype)}


Quantization = Nf4 | Int8 | Fp8


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def quantization_of(load: str, dtype: torch.dtype) -> Quantization | None:
    """What a base is made into under ``model.load`` and ``dtype``; None for ``full``."""
    kinds: dict[str, type[Quantization]] = {"4bit": Nf4, "8bit": Int8, "fp8": Fp8}
    return kinds[load](dtype=dtype) if load in kinds else None


def recorded(record: Mapping[str, Any] | None, place: str) -> Quantization | None:
    """What an adapter's record says of the base in training; None where it was in full precision.

    Raises: ModelError ``adapter.bad-record`` for a kind of quantisation that is not known here.
    """
    entry = (record or {}).get("quantization")
    if entry is None:
        return None
    try:
        dtype = getattr(torch, entry["dtype"])
        if not isinstance(dtype, torch.dtype) or entry["type"] not in ("nf4", "int8", "fp8"):
            raise ValueError(entry)
        if entry["type"] != "nf4":
            return Int8(dtype=dtype) if entry["type"] == "int8" else Fp8(dtype=dtype)
        return Nf4(dtype=dtype, double=bool(entry["double"]), block=int(entry["block"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(
            "adapter.bad-record",
            "hantune.json 里的 quantization 读不懂: 不完整, 或者来自更新的 hantune",
            place=place,
            hint="升级 hantune, 或者从训练的运行文件夹重新拷一份",
        ) from error


def round_trip(weight: Tensor, how: Quantization, *, is_turned: bool = False) -> Tensor:
    """The weight as training saw it: to fewer bits and back, in ``how.dtype``.

    ``is_turned``: it is stored I x O (GPT-2's layers), and quantised as O x I.
    Raises: MachineError ``machine.no-bitsandbytes``.
    """
    if isinstance(how, Fp8):
        weight = weight.to(how.dtype)
        return weight if is_turned or not fp8.fits(weight.shape) else fp8.dense(fp8.rounded(weight), how.dtype)
    if is_turned:
        return round_trip(weight.T, how).T
    functional = library("bitsandbytes.functional")
    if isinstance(how, Int8):
        codes, scales, _ = functional.int8_vectorwise_quant(weight.to(how.dtype).to(torch.float16))
        return _from_8_bits(codes, scales, how.dtype)
    packed, state = functional.quantize_4bit(
        weight.to(how.dtype), quant_type="nf4", blocksize=how.block, compress_statistics=how.double
    )
    restored: Tensor = functional.dequantize_4bit(packed, state)
    return restored


def round_linears(model: nn.Module, how: Quantization) -> None:
    """Give the linear layers but the head, which stay as they are held, the weights that training saw."""
    head = bare_model(model).get_output_embeddings()
    for layer in model.modules():
        if isinstance(layer, nn.Linear) and layer is not head:
            layer.weight.data.copy_(round_trip(layer.weight.data, how))


def is_quantized(layer: nn.Module) -> bool:
    """Whether a linear layer holds its weight in 8 or 4 bits."""
    weight = getattr(layer, "weight", None)
    is_packed = getattr(weight, "quant_state", None) is not None or getattr(weight, "SCB", None) is not None
    return is_packed or fp8.is_held(layer)


def dense_weight(layer: nn.Module, dtype: torch.dtype) -> Tensor:
    """A linear layer's weight, O x I, in ``dtype``: made anew where it is held in fewer bits, else the parameter."""
    weight: Any = layer.weight
    if (state := getattr(weight, "quant_state", None)) is not None:
        dense: Tensor = library("bitsandbytes.functional").dequantize_4bit(weight.data, state)
        return dense.to(dtype)
    if (scales := getattr(weight, "SCB", None)) is not None:
        return _from_8_bits(weight.data, scales, dtype)
    if fp8.is_held(layer):
        return fp8.dense(fp8.weight_of(layer), dtype)
    return torch.as_tensor(weight).to(dtype)


def _from_8_bits(codes_OI: Tensor, scales_O: Tensor, dtype: torch.dtype) -> Tensor:
    """The weights that 8 bits stand for, rounded once."""
    return codes_OI.float().mul_(scales_O.unsqueeze(1) / 127).to(dtype)


def num_weights(parameter: Tensor) -> int:
    """How many weights a parameter stands for; 4-bit ones are packed two in a byte."""
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else math.prod(state.shape)


def loading_config(load: str, dtype: torch.dtype) -> Any:
    """What ``from_pretrained`` takes as ``quantization_config``; None for ``full``. ``dtype``: of the arithmetic.

    Raises: ConfigError ``model.unknown-load``; MachineError ``machine.no-bitsandbytes``.
    """
    if load not in LOADS:
        raise ConfigError(
            "model.unknown-load",
            f"没有这种读法: {load}; 可以写: {'、'.join(LOADS)}",
            place="--load",
            hint="fp8 只用于训练 (model.load=fp8), 练出的适配器不写 --load 就行"
            if load == "fp8"
            else "4bit 最省内存, 8bit 居中, full 是原来的精度",
        )
    if load == "full":
        return None
    from transformers import BitsAndBytesConfig

    library("bitsandbytes")
    if load == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def library(name: str) -> Any:
    """bitsandbytes or a part of it.

    Raises: MachineError ``machine.no-bitsandbytes``.
    """
    try:
        with _compiling_later():
            return importlib.import_module(name)
    except ImportError as error:
        raise MachineError(
            "machine.no-bitsandbytes",
            "没有装 bitsandbytes: 4 比特和 8 比特要用它 (CPU 和 NVIDIA 显卡都行)",
            hint='装上它: pip install "bitsandbytes>=0.50"; 或者用原来的精度: --load full, 训练时 model.load=full',
        ) from error


def import_peft() -> None:
    """PEFT, which imports bitsandbytes where it is installed, in half of its time and with less memory."""
    with _compiling_later():
        importlib.import_module("peft")


@contextlib.contextmanager
def _compiling_later() -> Iterator[None]:
    """What is imported inside asks for no compiler before it is used: bitsandbytes has functions compiled when it is
    imported, which loads torch's compiler (over a second), also where none of them is ever called."""
    real = torch.compile

    def later(function: Callable[..., Any] | None = None, **options: Any) -> Any:
        if function is None:
            return functools.partial(later, **options)
        compiled = functools.cache(lambda: real(function, **options))
        return functools.wraps(function)(lambda *args, **kwargs: compiled()(*args, **kwargs))

    torch.compile = later  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.compile = real
