"""Three models in one batch: base + adapter, the base alone, and the merged model, in one pass over their files.

Only one layer's weights are in memory at a time: the modules of the model's own code get them as they are called and
give them back. The rows of the batch are in three equal parts, one for each model; what has no weights (attention,
activations, rotary embeddings) works on all of them, what has applies each model's own. On the way each merged weight
is compared with what PEFT makes of the base's.

Shape letters: B rows of the batch, T positions, V vocabulary.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from hantune.models.load import quiet_transformers
from hantune.models.outline import Outline
from hantune.models.quantize import Quantization, round_trip
from hantune.models.weights import Tensors, row_blocks

Change = Callable[[Tensor, int], Tensor]
"""From rows of a base weight in float32, and the number of the first, to the exact merged rows."""
ADAPTER = "default"
"""PEFT's name for the only adapter of a model."""


@dataclass(frozen=True)
class Folder:
    """The weights of one model folder by the names of the model's code; ``quantized``: as they are when loaded so."""

    tensors: Tensors
    outline: Outline
    quantized: Quantization | None = None

    def file_name(self, name: str) -> str:
        """What the files call a parameter."""
        found = self.outline.stored(name, self.tensors)
        if found is None:
            raise KeyError(f"no tensor for {name}")
        return found

    def whole(self, name: str) -> Tensor:
        """A parameter in its stored dtype."""
        tensor = self.tensors.read(self.file_name(name))
        if self.quantized is not None and name in self.outline.linear:
            return round_trip(tensor, self.quantized, is_turned=name in self.outline.turned).to(tensor.dtype)
        return tensor

    def blocks(self, name: str) -> Iterator[tuple[int, Tensor]]:
        """A parameter a run of rows at a time: (number of the first, rows in their stored dtype)."""
        if self.quantized is not None and name in self.outline.linear:
            whole = self.whole(name)
            yield from ((a, whole[a:b]) for a, b in row_blocks(self.tensors.specs[self.file_name(name)]))
        else:
            yield from self.tensors.blocks(self.file_name(name))


@dataclass
class Findings:
    """What a sweep saw of the merged folder."""

    wrong_weights: int = 0
    checked: set[str] = field(default_factory=set)
    """The merged files' tensors that a module of the model used."""


class Sweep:
    """Runs ``tuned`` (a PeftModel around a skeleton) on weights from ``base`` and ``merged``."""

    def __init__(self, tuned: Any, base: Folder, merged: Folder) -> None:
        self.base, self.merged = base, merged
        self.findings = Findings()
        self._model = tuned.get_base_model()
        self._is_alone = False

    @torch.no_grad()
    def reference(self, tokens_BT: Tensor) -> Tensor:
        """Logits of base + adapter alone, B x T x V."""
        self._is_alone = True
        return self._run(tokens_BT)

    @torch.no_grad()
    def all_three(self, tokens_BT: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (B x T x V) of base + adapter, of the base, and merged; every weight on the way is compared."""
        self._is_alone = False
        self.findings = Findings()
        return self._run(tokens_BT.repeat(3, 1)).chunk(3)  # type: ignore[return-value]

    def _run(self, tokens_BT: Tensor) -> Tensor:
        with self._streaming(), quiet_transformers():
            logits: Tensor = self._model(input_ids=tokens_BT, use_cache=False).logits
        return logits

    @contextlib.contextmanager
    def _streaming(self) -> Iterator[None]:
        """Every module with parameters fetches them itself."""
        units = list(self._units())
        for name, module in units:
            module.forward = self._forward_of(name, module, module.forward)
        try:
            yield
        finally:
            for _, module in units:
                del module.forward  # the class's own is seen again

    def _units(self) -> Iterator[tuple[str, Any]]:
        """(name, module) of the outermost modules that own parameters or are wrapped by PEFT."""
        from peft.tuners.lora import LoraLayer
        from peft.utils.other import AuxiliaryTrainingWrapper

        inside: tuple[str, ...] = ()
        for name, module in self._model.named_modules():
            if name.startswith(inside):
                continue
            is_wrapped = isinstance(module, LoraLayer | AuxiliaryTrainingWrapper)
            if is_wrapped:
                inside = (*inside, name + ".")
            if is_wrapped or any(True for _ in module.parameters(recurse=False)):
                yield name, module

    def _forward_of(self, name: str, module: Any, original: Callable[..., Any]) -> Callable[..., Any]:
        """What stands in for one module's ``forward``."""
        from peft.tuners.lora import LoraLayer
        from peft.utils.other import AuxiliaryTrainingWrapper

        if isinstance(module, LoraLayer):
            if (change := _plain_lora(module)) is not None:
                return lambda x, *_, **__: self._in_blocks(name, module.get_base_layer(), x, change)
            return lambda x, *_, **__: self._lora(name, module, original, x)
        if isinstance(module, AuxiliaryTrainingWrapper):
            return lambda x, *_, **__: self._replaced(name, module, x)
        if _is_plain(module):
            return lambda x: self._in_blocks(name, module, x, None)
        return lambda *args, **settings: self._whole(name, module, original, args, settings)

    # ---- one module each ------------------------------------------------------------------------------------------

    def _lora(self, name: str, module: Any, original: Callable[..., Any], x: Tensor) -> Tensor:
        """A layer with any kind of LoRA: PEFT's own forward, and PEFT's own merge as the measure."""
        layer = module.get_base_layer()
        names = {key: f"{name}.{key}" for key, _ in layer.named_parameters(recurse=False)}
        with _holding(layer, {key: self.base.whole(full).float() for key, full in names.items()}):
            if self._is_alone:
                return original(x)  # type: ignore[no-any-return]
            mine, untouched, merged = x.chunk(3)
            results = [original(mine), layer(untouched)]
            module.merge(adapter_names=[ADAPTER])
            module.merged_adapters.clear()
            for key, full in names.items():
                self._compare(full, getattr(layer, key).data)
        with _holding(layer, {key: self._of_merged(full).float() for key, full in names.items()}):
            results.append(layer(merged))
        return torch.cat(results)

    def _replaced(self, name: str, module: Any, x: Tensor) -> Tensor:
        """A layer that was trained whole, or of which some rows were."""
        if hasattr(module, "token_adapter"):
            trained = module.token_adapter
            numbers, rows = torch.tensor(trained.token_indices[ADAPTER]), trained.trainable_tokens_delta[ADAPTER]
            return self._in_blocks(name, trained.get_base_layer(), x, _new_rows(numbers, rows.float()))
        inner, plain = module.modules_to_save[ADAPTER], module.original_module
        exact = {key: value.data.float() for key, value in inner.named_parameters()}
        result: Tensor = self._three_ways(name, plain, plain.forward, exact, (x,), {})
        return result

    def _whole(
        self, name: str, module: Any, original: Callable[..., Any], args: tuple[Any, ...], settings: dict[str, Any]
    ) -> Any:
        """Any module of its own kind (norms, experts) that the adapter leaves alone."""
        exact = {key: self.base.whole(f"{name}.{key}").float() for key, _ in module.named_parameters(recurse=False)}
        return self._three_ways(name, module, original, exact, args, settings)

    def _three_ways(
        self,
        name: str,
        module: Any,
        original: Callable[..., Any],
        exact: dict[str, Tensor],
        args: tuple[Any, ...],
        settings: dict[str, Any],
    ) -> Any:
        """``original`` with the weights ``exact``; where base or merged ones differ, each part with its own."""
        if self._is_alone:
            with _holding(module, exact):
                return original(*args, **settings)
        base = {key: self.base.whole(f"{name}.{key}").float() for key in exact}
        merged = {key: self._of_merged(f"{name}.{key}").float() for key in exact}
        for key, value in exact.items():
            self._compare(f"{name}.{key}", value)
        if all(torch.equal(exact[key], base[key]) and torch.equal(exact[key], merged[key]) for key in exact):
            with _holding(module, exact):
                return original(*args, **settings)
        rows = args[0].shape[0]
        parts = [a.chunk(3) if isinstance(a, Tensor) and a.shape[0] == rows else (a, a, a) for a in args]
        results = []
        for number, weights in enumerate((exact, base, merged)):
            with _holding(module, weights):
                results.append(original(*(part[number] for part in parts), **settings))
        return torch.cat(results)

    def _in_blocks(self, name: str, module: Any, x: Tensor, change: Change | None) -> Tensor:
        """A large linear layer or embedding, some rows of its weight at a time."""
        weight = f"{name}.weight"
        others = None if self._is_alone else self._merged_blocks(weight)
        result = _EmbeddingResult(module, x) if isinstance(module, nn.Embedding) else _LinearResult(x)
        for start, block in self.base.blocks(weight):
            base = block.float()
            exact = change(base, start) if change else base
            merged = exact if others is None else self._checked_block(exact, next(others))
            is_one = others is None or (merged is exact and exact is base)
            result.add(start, *([exact] if is_one else [exact, base, merged]))
        if isinstance(module, nn.Embedding):
            return result.tensor()
        return self._with_bias(name, module, result.tensor())

    def _with_bias(self, name: str, module: Any, result: Tensor) -> Tensor:
        """The output of a linear layer with its bias, if it has one."""
        if getattr(module, "bias", None) is None:
            return result
        exact = self.base.whole(f"{name}.bias").float()
        if self._is_alone:
            return result + exact
        self._compare(f"{name}.bias", exact)
        mine, untouched, merged = result.chunk(3)
        return torch.cat([mine + exact, untouched + exact, merged + self._of_merged(f"{name}.bias").float()])

    # ---- the merged folder ----------------------------------------------------------------------------------------

    def _of_merged(self, name: str) -> Tensor:
        self.findings.checked.add(self.merged.file_name(name))
        return self.merged.whole(name)

    def _merged_blocks(self, name: str) -> Iterator[Tensor]:
        self.findings.checked.add(self.merged.file_name(name))
        yield from (block for _, block in self.merged.blocks(name))

    def _compare(self, name: str, exact: Tensor) -> None:
        """Count the merged elements that are not ``exact`` rounded once."""
        start = 0
        for block in self._merged_blocks(name):
            its = exact[start : start + len(block)] if block.ndim else exact
            self.findings.wrong_weights += badly_rounded(its, block)
            start += len(block) if block.ndim else 1

    def _checked_block(self, exact: Tensor, merged: Tensor) -> Tensor:
        """Merged rows in float32; ``exact`` itself where they are equal."""
        wide = merged.float()
        if torch.equal(wide, exact):
            return exact
        self.findings.wrong_weights += badly_rounded(exact, merged)
        return wide


def _is_plain(module: Any) -> bool:
    """Whether a module computes what torch's linear layer or embedding does."""
    kinds = (nn.Linear.forward, nn.Embedding.forward)
    return isinstance(module, nn.Linear | nn.Embedding) and type(module).forward in kinds


def _new_rows(numbers: Tensor, trained: Tensor) -> Change:
    """Rows of an embedding with the trained ones in their places."""

    def change(base: Tensor, start: int) -> Tensor:
        inside = (numbers >= start) & (numbers < start + len(base))
        return base.index_copy(0, numbers[inside] - start, trained[inside]) if bool(inside.any()) else base

    return change


def _plain_lora(module: Any) -> Change | None:
    """W + scaling * B @ A with the numbers that PEFT itself holds; None where the layer is more than that."""
    from peft.tuners.lora import Linear

    if type(module) is not Linear or module.fan_in_fan_out or not _is_plain(module.get_base_layer()):
        return None
    a, b = module.lora_A[ADAPTER], module.lora_B[ADAPTER]
    if ADAPTER in module.lora_variant or b.bias is not None:
        return None
    scaling = module.scaling[ADAPTER]
    return lambda base, start: torch.addmm(base, b.weight[start : start + len(base)], a.weight, alpha=scaling)


class _LinearResult:
    """The output of a linear layer, gathered from runs of its rows."""

    def __init__(self, x: Tensor) -> None:
        self._x = x
        self._parts: list[Tensor] = []

    def add(self, start: int, *weights: Tensor) -> None:
        """The rows from ``start``: one weight for the whole batch, or one for each part of it."""
        parts = zip(self._x.chunk(len(weights)), weights, strict=True)
        self._parts.append(torch.cat([functional.linear(x, weight) for x, weight in parts]))

    def tensor(self) -> Tensor:
        return torch.cat(self._parts, dim=-1)


class _EmbeddingResult:
    """The output of an embedding, gathered likewise."""

    def __init__(self, module: Any, x: Tensor) -> None:
        self._x = x
        self._result = torch.full((*x.shape, module.embedding_dim), torch.nan)  # an id without a row shows

    def add(self, start: int, *weights: Tensor) -> None:
        count = len(weights)
        for ids, result, weight in zip(self._x.chunk(count), self._result.chunk(count), weights, strict=True):
            inside = (ids >= start) & (ids < start + len(weight))
            result[inside] = weight[ids[inside] - start]

    def tensor(self) -> Tensor:
        return self._result


@contextlib.contextmanager
def _holding(module: Any, weights: dict[str, Tensor]) -> Iterator[None]:
    """``module`` with real parameters for a while."""
    empty = {key: getattr(module, key) for key in weights}
    try:
        for key, value in weights.items():
            setattr(module, key, nn.Parameter(value, requires_grad=False))
        weights.clear()
        yield
    finally:
        for key, value in empty.items():
            setattr(module, key, value)


def badly_rounded(exact: Tensor, rounded: Tensor) -> int:
    """How many elements lie further from ``exact`` (float32) than rounding to nearest can put them.

    The slack of 1e-6 of the largest weight is for float32 sums in another order. NaN is never right.
    """
    if torch.equal(exact.to(rounded.dtype), rounded):
        return 0
    kind = torch.finfo(rounded.dtype)
    size = exact.abs()
    allowed = size * (kind.eps / 2) + (kind.tiny * kind.eps + 1e-6 * float(size.max()))
    return int((~((rounded.float() - exact).abs() <= allowed)).sum())


def stacked(rows: Sequence[Sequence[int]]) -> Tensor:
    """Rows of ids, padded behind their ends, where causal models do not look."""
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(list(row)) for row in rows], batch_first=True)
