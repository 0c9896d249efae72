"""A frozen base in 8-bit floats, for training on cards that multiply them (NVIDIA Ada, Hopper and later).

``x W^T`` and ``dY W`` are products of e4m3 numbers, which such a card takes twice as fast as bf16. W is rounded once, x
and dY when they come, each row by its own scale: so no sample changes what is made of another in the same micro-batch
(a scale for the whole tensor would), and tokens with small gradients keep theirs. With a scale for each row e4m3 is
wide enough for gradients too, and has one bit more than e5m2.

Scales are powers of two. Floats of 8 bits step alike in every octave, so nothing is lost by it, and everything but the
rounding itself is exact: a number times its scale in bf16, the dense weight, and W's scales, which are multiplied into
dY where its product runs along them. One matrix of one byte a weight serves both products; evaluation, answers and the
merge compute with the dense weight that it stands for, and round no activation.

Shape letters: N tokens, I inputs, O outputs.
Source: Micikevicius et al., FP8 Formats for Deep Learning (2022).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hantune.errors import MachineError
from hantune.models.call import bare_model

DTYPE = torch.float8_e4m3fn
TO_OCTAVE = 0x1FFFFF
"""Added to the bits of a float32, it takes those above 1.75 times a power of two to the next: 448 is 1.75 x 256."""
SMALLEST = 2.0**-110
"""A row of smaller numbers is scaled as if this were its largest, so that no scale leaves the range of bf16."""
MULTIPLE = 16
"""What the kernels want the inputs and outputs of a layer to be a multiple of."""
CAPABILITY = (8, 9)
"""The first cards with FP8 units."""
FAST_SUMS = True
"""Whether sums are kept in fewer bits than float32 on the way: the kernels for rows are quick only so."""


class Rounded(NamedTuple):
    """``codes`` [N, I] in e4m3, times ``scales`` [N, 1] in float32, powers of two, are the numbers.

    ``dtype``: what they were rounded from, and products with them are given in.
    """

    codes: Tensor
    scales: Tensor
    dtype: torch.dtype


def rounded(x_NI: Tensor, factors_1I: Tensor | None = None) -> Rounded:
    """``x * factors`` (powers of two) in 8 bits, each row by its own scale."""
    return Rounded(*_rounding(x_NI.device.type)(x_NI, factors_1I), x_NI.dtype)


def dense(number: Rounded, dtype: torch.dtype) -> Tensor:
    """The numbers, exact in bf16 and float32."""
    return number.codes.to(dtype).mul_(number.scales.to(dtype))


def _round(x_NI: Tensor, factors_1I: Tensor | None) -> tuple[Tensor, Tensor]:
    """Codes and scales: the largest number of a row comes to lie between 224 and 448."""
    if factors_1I is not None:
        x_NI = x_NI * factors_1I.to(x_NI.dtype)
    largest_N1 = x_NI.abs().amax(1, keepdim=True).float().clamp(min=SMALLEST)
    exponents_N1 = ((largest_N1.view(torch.int32) + TO_OCTAVE) >> 23) - 8
    scales_N1 = (exponents_N1 << 23).view(torch.float32)
    inverse_N1 = ((254 - exponents_N1) << 23).view(torch.float32)
    return (x_NI * inverse_N1.to(x_NI.dtype)).to(DTYPE), scales_N1


@functools.cache
def _rounding(kind: str) -> Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor]]:
    """On a card the five passes of ``_round`` as one compiled kernel, if it can be made and gives the same bits."""
    if kind != "cuda":
        return _round
    try:
        import torch._inductor.config as settings

        settings.compile_threads = 1  # no pool of compiler processes that outlives the run
        compiled: Callable[..., tuple[Tensor, Tensor]] = torch.compile(_round, dynamic=True)
        for rows, columns in ((48, 256), (33, 512)):
            x_NI = torch.linspace(-3, 2, rows * columns, device=kind).view(rows, columns).bfloat16()
            for factors in (None, torch.full((1, columns), 0.25, device=kind)):
                pairs = zip(compiled(x_NI, factors), _round(x_NI, factors), strict=True)
                if not all(torch.equal(ours.float(), plain.float()) for ours, plain in pairs):
                    return _round
    except Exception:  # no Triton, no C compiler ...: a compiler can fail in any way, and it is only slower without
        return _round
    return compiled


def is_held(layer: nn.Module) -> bool:
    """Whether a layer has an 8-bit weight."""
    return getattr(getattr(layer, "weight", None), "scales_O1", None) is not None


def computes_in_fp8(layer: nn.Module) -> bool:
    """Whether a layer's products are of 8-bit floats now: it is held so, and it is being trained."""
    return layer.training and is_held(layer)


def weight_of(layer: nn.Module) -> Rounded:
    """The 8-bit weight of a layer that ``hold_in_fp8`` made, O x I."""
    weight: Any = layer.weight
    return Rounded(weight.data.view(DTYPE), weight.scales_O1, torch.float32)


def read_by(layers: tuple[nn.Linear, ...], x_NI: Tensor) -> Tensor | Rounded:
    """What these layers read: ``x``, rounded once for all of them where all compute in 8 bits."""
    return rounded(x_NI) if all(map(computes_in_fp8, layers)) else x_NI


def product(x: Tensor | Rounded, layer: nn.Linear) -> Tensor:
    """``x W^T + bias`` of a layer that computes in 8 bits, in the type of ``x``, shape [..., O]."""
    shape = (x.codes if isinstance(x, Rounded) else x).shape
    x_NI = x if isinstance(x, Rounded) else rounded(x.reshape(-1, shape[-1]))
    weight = weight_of(layer)
    y_NO = _multiply(x_NI, weight.codes, weight.scales.view(1, -1)).view(*shape[:-1], -1)
    return y_NO if layer.bias is None else y_NO.add_(layer.bias.to(x.dtype))


def product_back(grad: Tensor, layer: nn.Linear) -> Tensor:
    """``grad W`` of a layer that computes in 8 bits, in the type of ``grad``, shape [..., I].

    Cards take both matrices only along what is summed over: W is turned for it and the turned one forgotten.
    """
    codes_OI, scales_O1, _ = weight_of(layer)
    scaled = rounded(grad.reshape(-1, grad.shape[-1]), scales_O1.view(1, -1))
    ones_1I = torch.ones(1, codes_OI.shape[1], device=grad.device)
    return _multiply(scaled, codes_OI.t().contiguous(), ones_1I).view(*grad.shape[:-1], -1)


def bare_product(codes_NI: Tensor, codes_OI: Tensor) -> Tensor:
    """What training multiplies, with all scales 1 and nothing to round, N x O: to measure how fast it can be."""
    ones_N1, ones_1O = (torch.ones(shape, device=codes_NI.device) for shape in ((len(codes_NI), 1), (1, len(codes_OI))))
    return _multiply(Rounded(codes_NI, ones_N1, torch.bfloat16), codes_OI, ones_1O)


def _multiply(a_NK: Rounded, b_MK: Tensor, scales_1M: Tensor) -> Tensor:
    """``a b^T``, each column by its own scale, N x M. On a card the product comes in bf16, the only type there is."""
    by_row = F.ScalingType.RowWise
    y_NM = F.scaled_mm(
        a_NK.codes,
        b_MK.t(),
        a_NK.scales,
        by_row,
        scales_1M,
        by_row,
        output_dtype=torch.bfloat16 if b_MK.is_cuda else a_NK.dtype,
        use_fast_accum=FAST_SUMS,
    )
    return y_NM.to(a_NK.dtype)


def layers_to_hold(model: nn.Module) -> Iterator[nn.Linear]:
    """The frozen linear layers that 8-bit products can be made of, without the head."""
    head = bare_model(model).get_output_embeddings()
    for module in model.modules():
        if isinstance(module, nn.Linear) and module is not head and fits(module.weight.shape):
            yield module


def fits(shape: Sequence[int]) -> bool:
    """Whether a matrix has sizes that the kernels take."""
    return all(size % MULTIPLE == 0 for size in shape)


def hold_in_fp8(model: nn.Module, device: torch.device) -> int:
    """How many layers of the model hold 8-bit weights now, on ``device``; the rest of it stays where it is."""
    layers = list(layers_to_hold(model))
    for layer in layers:
        layer.weight = packed(rounded(layer.weight.detach().to(device)))
    return len(layers)


def packed(number: Rounded) -> nn.Parameter:
    """What such a layer has for its weight. As bytes: PEFT would make adapters of the type of a base in floats."""
    weight: Any = nn.Parameter(number.codes.view(torch.uint8), requires_grad=False)
    weight.scales_O1 = number.scales
    return weight  # type: ignore[no-any-return]


def require_fp8(device: torch.device) -> None:
    """Nothing, if the device multiplies 8-bit floats.

    Raises: MachineError ``machine.no-fp8``.
    """
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
    reason = _obstacle(capability, is_nvidia=torch.version.hip is None) or _failure(device)
    if reason is not None:
        raise MachineError(
            "machine.no-fp8",
            f"用不了 model.load=fp8: {reason}",
            hint="用 model.load=full, 显存不够用 8bit 或 4bit; FP8 要计算能力 8.9 起的 NVIDIA 显卡 (RTX 40 系, H100)",
        )


def _obstacle(capability: tuple[int, int] | None, *, is_nvidia: bool) -> str | None:
    """Why a card of this capability (None: a CPU) has no such products; None where it should."""
    if capability is None:
        return None
    if not is_nvidia:
        return "只支持 NVIDIA 显卡"
    return None if capability >= CAPABILITY else f"这块显卡的计算能力是 {capability[0]}.{capability[1]}, 没有 FP8 单元"


def _failure(device: torch.device) -> str | None:
    """What goes wrong with a small product on the device; None if it is right."""
    x = torch.linspace(-2, 1, 32 * 64, device=device).view(32, 64)
    try:
        a, b = rounded(x), rounded(x[:16])
        expected = dense(a, torch.float32) @ dense(b, torch.float32).T
        found = _multiply(a, b.codes, b.scales.view(1, -1))
    except (AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        return f"PyTorch {torch.__version__} 在这里乘不了 FP8 矩阵 ({str(error).splitlines()[0][:100]})"
    is_right = bool((found - expected).norm() < 0.01 * expected.norm())
    return None if is_right else f"PyTorch {torch.__version__} 在这里乘 FP8 矩阵的结果不对"
