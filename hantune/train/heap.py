"""Memory that a process has freed and still holds: given back to the system before it stands above the plan.

glibc keeps freed tensors as holes in its heap, and a hole is often a little too small for the next tensor of the same
size; measured, a third of what passes through a step comes on top, and it grows with the steps. Returning the holes
costs page faults when they are used again, so it is done only above a limit.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from hantune.train.memory import process_memory

SPARE = 1.02
"""If holes were not what stood above the limit, the limit was wrong: it becomes this much more than is really held."""


class Heap:
    """``limit``: bytes this process may hold; ``trims``: how often holes were given back."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.trims = 0
        self._trim = trimmer()

    def watch(self, model: nn.Module) -> None:
        """Look at every layer, on the way forward and on the way back."""
        layers = next((m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m)), None)
        for layer in layers if layers is not None and self._trim else ():
            layer.register_forward_hook(self._after_layer)

    def check(self, *_: Any) -> None:
        """Give back what is free if the process stands above the limit."""
        if self._trim is None or (process_memory()[0] or 0) <= self.limit:
            return
        self._trim(0)
        self.trims += 1
        self.limit = max(self.limit, int((process_memory()[0] or 0) * SPARE))

    def _after_layer(self, layer: nn.Module, inputs: Any, output: Any) -> None:
        self.check()
        hidden = output[0] if isinstance(output, tuple) else output
        if isinstance(hidden, Tensor) and hidden.requires_grad:
            hidden.register_hook(self.check)


def trimmer() -> Callable[[int], int] | None:
    """glibc's ``malloc_trim``; None where the C library has none (macOS, Windows, musl)."""
    try:
        return ctypes.CDLL(None).malloc_trim  # type: ignore[no-any-return]
    except (AttributeError, OSError, TypeError):
        return None
