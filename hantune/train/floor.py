"""What training must multiply at least, and how fast this machine multiplies: together the floor under its time.

FLOP of one matrix of m weights (m = inputs x outputs), for each token that goes through it:

    forward 2 m
    gradient of the input 2 m, where something below is learned
    gradient of the weights 2 m, if they are learned

so 6 m for what is learned, 4 m for frozen weights above the lowest learned one, 2 m below it: close to the well known
6 N of full training, and 4 N of LoRA. The head counts only positions with a label. A document of s tokens adds
2 s^2 w a layer for causal attention (scores and mixture of values; w = heads x size of a head), and twice that where
gradients pass. What an implementation computes more (padding, recomputed activations, masked scores) is not counted.
Source: Kaplan et al. (2020), appendix B; Chowdhery et al., PaLM (2022), appendix B (model FLOPs utilisation).
"""

from __future__ import annotations

import functools
import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hantune.models import fp8
from hantune.models.call import bare_model
from hantune.models.prepack import in_order, pays, times

MEASURED_SECONDS = 0.2
"""How long products are timed on a CPU or a card, after a first one that warms up."""
KNOWN_SHARE = 0.99
"""A model with more than the rest of its numbers outside linear layers and embeddings is not counted."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """FLOP of forward and backward: of a token, of a position with a label, of a token pair of a document."""

    token: float
    label: float
    pair: float
    shape: tuple[int, int]
    """Inputs and outputs of the kind of layer that takes the most time."""

    def of(self, *, tokens: int, supervised: int, squares: int) -> float:
        """FLOP of a step. ``squares``: the lengths of its documents, squared and summed."""
        return self.token * tokens + self.label * supervised + self.pair * squares


@dataclass(frozen=True, kw_only=True)
class Floor:
    """What a step must multiply, and how many FLOP a second the machine was measured to multiply."""

    work: Work
    rate: float


def measured_floor(model: nn.Module, device: torch.device, dtype: torch.dtype, *, rows: int) -> Floor | None:
    """The floor under a run with micro-batches of ``rows`` tokens; None where the model's work is not known."""
    work = work_of(model)
    if work is not None and fp8.fits(work.shape) and any(map(fp8.is_held, model.modules())):
        dtype = fp8.DTYPE
    return None if work is None else Floor(work=work, rate=matmul_rate(device, dtype, rows=rows, shape=work.shape))


def work_of(model: nn.Module) -> Work | None:
    """What a model must multiply, with what is learned of it now; None where its matrices are not all known."""
    bare = bare_model(model)
    config = bare.config.get_text_config()
    head = set((bare.get_output_embeddings() or nn.Module()).modules())
    token = label = known = 0.0
    is_above = False
    shapes: Counter[tuple[int, int]] = Counter()
    lowest_layer = math.inf
    for name, module in bare.named_modules():
        known += sum(p.numel() for p in module.parameters(recurse=False) if p.ndim < 2)
        if isinstance(module, nn.Embedding):
            known += module.weight.numel()
        elif (size := _matrix(module)) is not None:
            weight: Any = module.weight
            known += weight.numel()
            flop = 2.0 * size[0] * size[1] * (1 + (is_above or weight.requires_grad) + weight.requires_grad)
            if module in head:
                label += flop
            else:
                token += flop
                shapes[size] += size[0] * size[1]
        if any(p.requires_grad for p in module.parameters(recurse=False)):
            is_above = True
            lowest_layer = min(lowest_layer, _layer(name))
    total = sum(p.numel() for p in {id(p): p for p in bare.parameters()}.values())
    if known < KNOWN_SHARE * total or not shapes:
        return None
    layers = config.num_hidden_layers
    width = config.num_attention_heads * (
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )
    num_above = layers - min(layers, lowest_layer)
    pair = 2.0 * width * (layers + 2 * num_above)
    return Work(token=token, label=label, pair=pair, shape=shapes.most_common(1)[0][0])


def _matrix(module: nn.Module) -> tuple[int, int] | None:
    """Inputs and outputs of a linear layer (also a quantised one, whose weight lies packed)."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    if type(module).__name__ == "Conv1D":  # GPT-2's linear layer
        return module.weight.shape[0], module.weight.shape[1]  # type: ignore[index, return-value]
    return None


def _layer(name: str) -> float:
    """The number of the layer a module stands in; 0 below the layers."""
    return next((int(part) for part in name.split(".") if part.isdecimal()), 0)


def matmul_rate(device: torch.device, dtype: torch.dtype, *, rows: int, shape: tuple[int, int]) -> float:
    """FLOP a second of ``[rows, inputs] x [inputs, outputs]``, the best of some; the same all through a process.

    With prepacked weights where those are quicker, whether a run uses them or not.

    Nothing is drawn and no state is left, so that a run does not depend on it.
    """
    return _measured(device, dtype, rows, shape, torch.get_num_threads())


@functools.cache
def _measured(device: torch.device, dtype: torch.dtype, rows: int, shape: tuple[int, int], threads: int) -> float:
    inputs, outputs = shape
    with torch.no_grad():
        weight = torch.linspace(-1, 1, inputs * outputs, device=device).to(dtype).view(outputs, inputs)
        x = torch.linspace(-1, 1, rows * inputs, device=device).to(dtype).view(rows, inputs)
        few = min(rows, 64)
        is_quicker = device.type == "cpu" and pays(dtype)
        plain = fp8.bare_product if dtype == fp8.DTYPE else F.linear
        product, weight = (times, in_order(weight)) if is_quicker else (plain, weight)
        multiply = functools.partial(_seconds, product, weight)
        first = min(multiply(x[:few], 1) for _ in range(2))  # the very first one also loads libraries
        # A large layer on a small machine: as many rows as a quarter of the time allows.
        rows = max(few, min(rows, int(MEASURED_SECONDS / 4 / first * few)))
        best, count, end = math.inf, 1, time.perf_counter() + MEASURED_SECONDS
        while time.perf_counter() < end:
            seconds = multiply(x[:rows], count)
            best = min(best, seconds / count)
            count *= 1 + (seconds < MEASURED_SECONDS / 20)
    return 2.0 * rows * inputs * outputs / best


def _seconds(product: Callable[..., Tensor], weight: Tensor, x: Tensor, count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        product(x, weight)
    if x.device.type == "cuda":
        torch.cuda.synchronize(x.device)
    return time.perf_counter() - start
