"""Linear layers whose weights lie on a CPU as oneDNN multiplies them.

torch keeps a matrix row by row: bf16 products lay it out anew each time, and float32 ones go to MKL, which leaves half
of an AMD processor's units idle. Laid out once, products of 32 rows (answering) take 0.7 of the time in bf16 and 0.4
in float32, those of 1,000 rows (training) 0.93 and 0.43; in bf16 no bit changes (docs/decisions.md 32). The plain
weight is let go and is made again, bit by bit, when the layers are unpacked.

Shape letters: N tokens (any leading shape), I inputs, O outputs.
"""

from __future__ import annotations

import functools
import time
from collections import Counter
from collections.abc import Iterator
from types import MethodType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hantune.log import console
from hantune.models import fp8
from hantune.models.call import bare_model, evaluating, model_inputs
from hantune.models.memory import forget_pages, give_back, own_pages
from hantune.models.quantize import dense_weight

DTYPES = (torch.float32, torch.bfloat16)
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}
"""How far the logits of a model with prepacked layers may lie from those before, relative."""
TRIED = (256, 1024, 1024)
"""Rows, inputs and outputs of the product that tells which of two libraries is quicker in float32."""
QUICKER = 0.9
"""The share of MKL's time that oneDNN's product must stay below."""
USUAL_ROWS = 1024
"""oneDNN chooses the order for so many rows; it is as good for one (docs/decisions.md 32)."""


class Prepacked(NamedTuple):
    """``weight``: W for products ``x W^T``; ``turned``: W^T for ``grad W``, None where nothing below is learned."""

    weight: Tensor
    turned: Tensor | None


def pays(dtype: torch.dtype) -> bool:
    """Whether prepacked products in ``dtype`` are quicker on this machine with as many threads as torch has now."""
    return dtype in DTYPES and _pays(dtype, torch.get_num_threads())


@functools.cache
def _pays(dtype: torch.dtype, threads: int) -> bool:
    """In bf16 both products are oneDNN's and one has less to do; in float32 a short trial decides."""
    rows, inputs, outputs = TRIED
    x_NI = torch.linspace(-1, 1, rows * inputs).view(rows, inputs).to(dtype)
    weight_OI = torch.linspace(-1, 1, outputs * inputs).view(outputs, inputs).to(dtype)
    try:
        packed = in_order(weight_OI)
        times(x_NI, packed)
    except (AttributeError, RuntimeError):  # a torch without oneDNN
        return False
    if dtype == torch.bfloat16:
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    ours = theirs = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        times(x_NI, packed)
        middle = time.perf_counter()
        F.linear(x_NI, weight_OI)
        ours, theirs = min(ours, middle - start), min(theirs, time.perf_counter() - middle)
    return ours < QUICKER * theirs


def prepack(model: nn.Module, *, is_trained: bool = False, most_added: int | None = None) -> int:
    """How many linear layers of the model are prepacked now; 0, and nothing changed, where it does not pay or fails.

    ``is_trained``: gradients pass through, and layers that are learned stay as they are. ``most_added``: bytes that
    second copies of shared weights (a tied head) may take; None: any. It is proven on the model by a short pass.
    """
    layers = _fitting(list(_layers(model, is_trained)), most_added)
    dtypes = {layer.weight.dtype for layer, _ in layers}
    before = _logits(model) if layers and all(map(pays, dtypes)) else None
    if before is None:
        return 0
    with console.progress("预排权重", len(layers), unit="层") as bar, own_pages():
        for layer, is_shared in layers:
            _pack(layer, is_trained=is_trained, is_shared=is_shared)
            bar.advance()
    after, tolerance = _logits(model), max(TOLERANCE[dtype] for dtype in dtypes)
    if after is None or (after - before).norm() > tolerance * before.norm():
        unpack(model)
        return 0
    give_back()
    return len(layers)


def unpack(model: nn.Module) -> int:
    """How many layers have their plain weights again, the same bits as before."""
    layers: list[Any] = [module for module in model.modules() if is_prepacked(module)]
    for layer in layers:
        if layer.weight.is_meta:
            weight = layer.prepacked.weight.to_dense()
            layer.weight = nn.Parameter(weight, requires_grad=layer.weight.requires_grad)
        del layer.prepacked, layer.forward
    return len(layers)


def is_prepacked(module: Any) -> bool:
    """Whether this layer computes with a weight in oneDNN's order."""
    return getattr(module, "prepacked", None) is not None


def added_bytes(model: nn.Module) -> int:
    """What prepacking the model for training takes on top of its weights; they need not have contents."""
    return sum(layer.weight.nbytes * (1 + is_shared) for layer, is_shared in _layers(model, is_trained=True))


def product(x: Tensor | fp8.Rounded, layer: Any) -> Tensor:
    """``x W^T + bias`` of a linear layer, plain, quantised or prepacked, shape [N, O]; no gradient is kept.

    ``x``: as ``fp8.read_by`` gives it for layers that compute in 8-bit floats.
    """
    if isinstance(x, fp8.Rounded) or fp8.computes_in_fp8(layer):
        return fp8.product(x, layer)
    laid: Prepacked | None = getattr(layer, "prepacked", None)
    if laid is not None and laid.weight.dtype == x.dtype:
        return times(x, laid.weight, layer.bias)
    bias_O = None if layer.bias is None else layer.bias.to(x.dtype)
    return F.linear(x, dense(layer, x.dtype), bias_O)


def product_back(grad_NO: Tensor, layer: Any, onto: Tensor | None = None) -> Tensor:
    """``grad W``, the gradient of the layer's input, shape [N, I]; added in place to ``onto`` where that is given."""
    if fp8.computes_in_fp8(layer):
        d_x_NI = fp8.product_back(grad_NO, layer)
        return d_x_NI if onto is None else onto.add_(d_x_NI)
    laid: Prepacked | None = getattr(layer, "prepacked", None)
    if laid is not None and laid.turned is not None and laid.turned.dtype == grad_NO.dtype:
        d_x_NI = times(grad_NO, laid.turned)
        return d_x_NI if onto is None else onto.add_(d_x_NI)
    weight_OI = dense(layer, grad_NO.dtype)
    return grad_NO @ weight_OI if onto is None else onto.addmm_(grad_NO, weight_OI)


def dense(layer: Any, dtype: torch.dtype) -> Tensor:
    """The layer's weight, O x I, in ``dtype``: made anew where it is not held so."""
    if is_prepacked(layer) and layer.weight.is_meta:
        weight_OI: Tensor = layer.prepacked.weight.to_dense()
        return weight_OI.to(dtype)
    return dense_weight(layer, dtype)


def _layers(model: nn.Module, is_trained: bool) -> Iterator[tuple[Any, bool]]:
    """The layers that may be prepacked, and whether the weight of each is also another module's.

    Not the factors of LoRA, which change; nor a base whose adapter looks at its weight (DoRA's norms).
    """
    owners = Counter(id(p) for module in model.modules() for p in module._parameters.values() if p is not None)
    watched = {id(module.base_layer) for module in model.modules() if getattr(module, "lora_variant", None)}
    for name, module in model.named_modules():
        if type(module) is not nn.Linear or id(module) in watched or ".lora_" in name or is_prepacked(module):
            continue
        parameters = [parameter for parameter in (module.weight, module.bias) if parameter is not None]
        is_plain = module.weight.device.type == "cpu" and all(p.dtype == module.weight.dtype for p in parameters)
        if is_plain and module.weight.dtype in DTYPES and not (is_trained and any(p.requires_grad for p in parameters)):
            yield module, owners[id(module.weight)] > 1


def _fitting(layers: list[tuple[Any, bool]], most_added: int | None) -> list[tuple[Any, bool]]:
    shared = sum(layer.weight.nbytes for layer, is_shared in layers if is_shared)
    if most_added is None or shared <= most_added:
        return layers
    return [(layer, is_shared) for layer, is_shared in layers if not is_shared]


def _pack(layer: Any, *, is_trained: bool, is_shared: bool) -> None:
    """Lay out a layer's weight; the plain one goes unless something else has it too."""
    weight_OI = layer.weight.detach()
    turned = in_order(weight_OI.t().contiguous()) if is_trained else None
    layer.prepacked = Prepacked(in_order(weight_OI), turned)
    layer.forward = MethodType(_forward, layer)
    if not is_shared:
        empty = torch.empty(weight_OI.shape, dtype=weight_OI.dtype, device="meta")
        layer.weight = nn.Parameter(empty, requires_grad=layer.weight.requires_grad)
        forget_pages(weight_OI)


def _forward(layer: nn.Linear, x: Tensor) -> Tensor:
    """The layer's output where no gradient is asked for."""
    return product(x, layer)


def in_order(weight_OI: Tensor) -> Tensor:
    """A weight as oneDNN multiplies it, opaque to the rest of torch."""
    return torch.as_tensor(torch.ops.mkldnn._reorder_linear_weight(weight_OI.contiguous(), USUAL_ROWS))


def times(x: Tensor, packed: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """``x W^T + bias`` with what ``in_order`` made of W."""
    return torch.as_tensor(torch.ops.mkldnn._linear_pointwise(x, packed, bias_O, "none", [], ""))


def _logits(model: nn.Module) -> Tensor | None:
    """What the model makes of four tokens; None if it cannot be called so."""
    bare = bare_model(model)
    tokens_BT = torch.arange(min(4, bare.config.get_text_config().vocab_size)).unsqueeze(0)
    with evaluating(model), torch.no_grad():
        try:
            return torch.as_tensor(bare(**model_inputs(bare, tokens_BT, use_cache=False)).logits).float()
        except (RuntimeError, TypeError, ValueError, NotImplementedError):
            return None
