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

from hantune.models import fp8
from hantune.models.call import bare_model
from hantune.models.quantize import Nf4, library

NF4_BLOCK = Nf4().block


class Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes of the tensors made inside that are still held: ``now``, and ``peak``, the most since it was last set."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
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


def stand_in(model: nn.Module, device: torch.device, *, load: str = "full") -> nn.Module:
    """``model``, made on the meta device, with parameters and buffers that claim to be on ``device``.

    ``load``: under ``8bit``, ``4bit`` and ``fp8`` the frozen matrices of linear layers lie packed as they do in a run.
    Raises: MachineError ``machine.no-bitsandbytes``.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    weights = _packed_weights(model) if load != "full" else iter(())
    packed = {id(weight) for weight in weights if load != "fp8" or fp8.fits(weight.shape)}
    made: dict[int, tuple[Tensor, Tensor]] = {}  # the old ones are kept as long as their ids count
    with FakeTensorMode(allow_non_fake_inputs=True):
        for tensors, name, tensor in _slots(model):
            if id(tensor) not in made:  # tied parameters stay one
                new = _packed(tensor, load, device) if id(tensor) in packed else _empty(tensor, device)
                made[id(tensor)] = new, tensor
            tensors[name] = made[id(tensor)][0]
    return model


def _empty(tensor: Tensor, device: torch.device) -> Tensor:
    empty = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
    return nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty


def _packed_weights(model: nn.Module) -> Iterator[Tensor]:
    """The matrices that loading in fewer bits packs: of all linear layers but the head and the adapters."""
    head = bare_model(model).get_output_embeddings()
    for module in model.modules():
        if isinstance(module, nn.Linear) and module is not head and not module.weight.requires_grad:
            yield module.weight


def _packed(weight: Tensor, load: str, device: torch.device) -> nn.Parameter:
    """A parameter with what is kept for such a matrix; ``models/quantize`` reads it."""
    if load == "fp8":
        codes_OI = torch.empty(weight.shape, dtype=fp8.DTYPE, device=device)
        scales_O1 = torch.empty(len(weight), 1, device=device)
        return fp8.packed(fp8.Rounded(codes_OI, scales_O1, weight.dtype))
    if load == "8bit":
        codes: Any = nn.Parameter(torch.empty(weight.shape, dtype=torch.int8, device=device), requires_grad=False)
        codes.SCB = torch.empty(weight.shape[0], device=device)
        return codes  # type: ignore[no-any-return]
    state = library("bitsandbytes.functional").QuantState
    count = weight.numel()
    scales = torch.empty(-(-count // NF4_BLOCK), dtype=torch.uint8, device=device)
    second = state(
        absmax=torch.empty(-(-len(scales) // 256), device=device),
        code=torch.empty(256, device=device),
        blocksize=256,
        dtype=torch.float32,
    )
    halves = torch.empty(-(-count // 2), 1, dtype=torch.uint8, device=device)
    codes = nn.Parameter(halves, requires_grad=False)
    codes.quant_state = state(
        absmax=scales,
        shape=weight.shape,
        code=torch.empty(16, device=device),
        blocksize=NF4_BLOCK,
        quant_type="nf4",
        dtype=weight.dtype,
        offset=torch.empty((), device=device),
        state2=second,
    )
    return codes  # type: ignore[no-any-return]


def _slots(model: nn.Module) -> Iterator[tuple[dict[str, Any], str, Tensor]]:
    """(owner, name, tensor) for every parameter and buffer."""
    for module in model.modules():
        for owner in (module._parameters, module._buffers):
            for name, tensor in list(owner.items()):
                if tensor is not None:
                    yield owner, name, tensor
