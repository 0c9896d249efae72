"""How much memory a piece of torch work takes, found by doing it with tensors that have shapes and no contents.

``stand_in`` makes such a model of one on the meta device. What is then run with it, by the same code as with real
weights, allocates nothing; ``Live`` sees every tensor come and go and counts. The choice of kernels is that of the
device which the tensors are said to be on.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class Live(TorchDispatchMode):
    """Bytes of the tensors made inside that are still held: ``now``, and ``peak``, the most since it was last set."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._storages: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_iter(result):
            if isinstance(value, Tensor):
                self._see(value.untyped_storage())
        return result

    def _see(self, storage: torch.UntypedStorage) -> None:
        place, size = storage._cdata, storage.nbytes()
        if place in self._storages:
            return

        def forget(_: Any) -> None:
            del self._storages[place]
            self.now -= size

        self._storages[place] = weakref.ref(storage, forget)
        self.now += size
        self.peak = max(self.peak, self.now)


def stand_in(model: nn.Module, device: torch.device) -> nn.Module:
    """``model``, made on the meta device, with parameters and buffers that claim to be on ``device``."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    made: dict[int, tuple[Tensor, Tensor]] = {}  # the old ones are kept as long as their ids count
    with FakeTensorMode(allow_non_fake_inputs=True):
        for tensors, name, tensor in _slots(model):
            if id(tensor) not in made:  # tied parameters stay one
                empty = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
                is_parameter = isinstance(tensor, nn.Parameter)
                made[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if is_parameter else empty, tensor
            tensors[name] = made[id(tensor)][0]
    return model


def num_bytes(tensors: Any) -> int:
    """What these tensors take, one that comes twice counted once."""
    return sum(tensor.numel() * tensor.element_size() for tensor in {id(t): t for t in tensors}.values())


def _slots(model: nn.Module) -> Iterator[tuple[dict[str, Any], str, Tensor]]:
    """(owner, name, tensor) for every parameter and buffer."""
    for module in model.modules():
        for owner in (module._parameters, module._buffers):
            for name, tensor in list(owner.items()):
                if tensor is not None:
                    yield owner, name, tensor
