"""What a LoRA adapter changes, one base tensor at a time, in float32, a run of rows at a time.

LoRA (arXiv:2106.09685): W' = W + scaling * B @ A. DoRA (arXiv:2402.09353): each row of that sum, which is the weight
vector of one output, is stretched to the learned magnitude.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hantune.errors import ModelError
from hantune.models.adapter import CONFIG, WEIGHTS
from hantune.paths import quoted

PREFIX = "base_model.model."
PLAIN_SETTINGS = (
    "use_qalora", "layer_replication", "target_parameters", "use_bdlora", "kasa_config", "velora_config",
    "alora_invocation_tokens", "arrow_config", "monteclora_config",
)  # fmt: skip
"""Settings of PEFT's LoraConfig under which W' is not made as below."""

RowChange = Callable[[Tensor, int], Tensor]
"""From rows of a base tensor in float32, and the number of the first, to the merged rows; may write into them."""
Change = Callable[[], RowChange]
"""Reads what the adapter has for one tensor."""


@dataclass
class Parts:
    """The tensor names of one layer's adapter."""

    a: str = ""
    b: str = ""
    b_bias: str = ""
    magnitude: str = ""
    is_embedding: bool = False
    tokens: str = ""


@dataclass
class Deltas:
    """All changes of one adapter, by the name of the model's parameter; ``safetensors`` are read when asked for."""

    changes: dict[str, Change] = field(default_factory=dict)
    rows_only: set[str] = field(default_factory=set)
    """Embeddings of which only new rows change; PEFT gives them to a tied head, too."""
    whole: dict[str, str] = field(default_factory=dict)
    """Parameters that were trained whole -> the adapter's tensor that takes their place."""


def unsupported(what: str, place: Path) -> ModelError:
    """The error for an adapter that cannot be merged exactly."""
    return ModelError(
        "merge.unsupported",
        f"这个适配器不能精确合并: {what}",
        place=str(place),
        hint=f"不合并也能用: hantune chat {quoted(place)}",
    )


def read_deltas(folder: Path, file: Any) -> Deltas:
    """The changes that the adapter in ``folder`` makes; ``file`` is its opened safetensors.

    Raises: ModelError ``merge.unsupported`` naming the setting or tensor.
    """
    from peft import LoraConfig, PeftConfig

    config = PeftConfig.from_pretrained(folder)
    if not isinstance(config, LoraConfig):
        raise unsupported(f"种类是 {config.peft_type}, 只会合并 LoRA", folder)
    for setting in PLAIN_SETTINGS:
        if getattr(config, setting, None):
            raise unsupported(f"{CONFIG} 里用了 {setting}", folder)
    layers: dict[str, Parts] = {}
    deltas = Deltas()
    for key in file.keys():  # noqa: SIM118  (not a dict)
        _sort_in(key, layers, deltas, file, folder)
    for name, parts in layers.items():
        _add_layer(name, parts, config, deltas, file, folder)
    return deltas


def _sort_in(key: str, layers: dict[str, Parts], deltas: Deltas, file: Any, folder: Path) -> None:
    """One tensor of the adapter file: a factor of a layer, or a whole tensor that replaces the base's."""
    if not key.startswith(PREFIX):
        raise unsupported(f"不认识张量 {key}", folder)
    name = key.removeprefix(PREFIX)
    for ending, part, is_embedding in (
        (".lora_A.weight", "a", False), (".lora_B.weight", "b", False), (".lora_B.bias", "b_bias", False),
        (".lora_embedding_A", "a", True), (".lora_embedding_B", "b", True),
        (".lora_magnitude_vector", "magnitude", False),
        (".token_adapter.trainable_tokens_delta", "tokens", False),
    ):  # fmt: skip
        if name.endswith(ending):
            parts = layers.setdefault(name.removesuffix(ending), Parts())
            setattr(parts, part, key)
            parts.is_embedding |= is_embedding
            return
    if "lora_" in name or not name.endswith((".weight", ".bias")):
        raise unsupported(f"不认识张量 {key}", folder)
    deltas.whole[name.replace(".base_layer.", ".")] = key
    deltas.changes[name.replace(".base_layer.", ".")] = _replacement(key, file)


def _add_layer(name: str, parts: Parts, config: Any, deltas: Deltas, file: Any, folder: Path) -> None:
    """The change of one layer's weight (and bias)."""
    if parts.tokens:
        deltas.changes[f"{name}.weight"] = _new_rows(parts.tokens, token_rows(config, name), file)
        deltas.rows_only.add(f"{name}.weight")
    if not (parts.a or parts.b or parts.magnitude):
        return
    if not (parts.a and parts.b) or parts.tokens or (config.use_dora and not parts.magnitude):
        raise unsupported(f"{name} 的矩阵不齐", folder)
    is_turned = bool(config.fan_in_fan_out) or parts.is_embedding
    if parts.magnitude and is_turned:
        raise unsupported(f"{name} 用了 DoRA, 而它的权重是转置着存的", folder)
    scaling = scaling_of(config, name)
    deltas.changes[f"{name}.weight"] = _low_rank(parts, scaling, is_turned, file)
    if parts.b_bias:
        deltas.changes[f"{name}.bias"] = lambda: _shift(scaling * file.get_tensor(parts.b_bias).float())


def scaling_of(config: Any, layer: str) -> float:
    """alpha / r, or alpha / sqrt(r) for rsLoRA (arXiv:2312.03732), with the layer's own alpha and r if it has them."""
    rank = _of_layer(config.rank_pattern, layer, config.r)
    alpha = _of_layer(config.alpha_pattern, layer, config.lora_alpha)
    return float(alpha) / (math.sqrt(rank) if config.use_rslora else rank)


def _of_layer(pattern: dict[str, Any] | None, layer: str, default: Any) -> Any:
    """The value of the first pattern that matches the layer's name, as PEFT looks it up."""
    from peft.utils.other import get_pattern_key

    return (pattern or {}).get(get_pattern_key((pattern or {}).keys(), layer), default)


def token_rows(config: Any, layer: str) -> list[int]:
    """The embedding rows that were trained one by one."""
    rows = config.trainable_token_indices
    if isinstance(rows, dict):
        rows = next(indices for target, indices in rows.items() if layer == target or layer.endswith("." + target))
    return list(rows)


def _low_rank(parts: Parts, scaling: float, is_turned: bool, file: Any) -> Change:
    """W + scaling * B @ A, turned where the base stores (in, out): Conv1D and embeddings; stretched for DoRA."""

    def read() -> RowChange:
        a, b = file.get_tensor(parts.a).float(), file.get_tensor(parts.b).float()
        left, right = (a.T, b.T) if is_turned else (b, a)
        magnitude = file.get_tensor(parts.magnitude).float() if parts.magnitude else None

        def change(rows: Tensor, start: int) -> Tensor:
            stop = start + len(rows)
            rows.addmm_(left[start:stop], right, alpha=scaling)
            if magnitude is not None:
                rows *= (magnitude[start:stop] / torch.linalg.norm(rows, dim=1))[:, None]
            return rows

        return change

    return read


def _new_rows(key: str, numbers: list[int], file: Any) -> Change:
    """The base's rows with the trained ones in their places."""

    def read() -> RowChange:
        places, trained = torch.tensor(numbers), file.get_tensor(key).float()

        def change(rows: Tensor, start: int) -> Tensor:
            inside = (places >= start) & (places < start + len(rows))
            return rows.index_copy_(0, places[inside] - start, trained[inside])

        return change

    return read


def _replacement(key: str, file: Any) -> Change:
    """A tensor that was trained whole."""

    def read() -> RowChange:
        whole = file.get_tensor(key)
        return lambda rows, start: whole[start : start + len(rows)].float()

    return read


def _shift(by: Tensor) -> RowChange:
    return lambda rows, start: rows + by[start : start + len(rows)]


def open_adapter(folder: Path) -> AbstractContextManager[Any]:
    """The adapter's safetensors, opened for reading one tensor at a time."""
    from safetensors import safe_open

    opened: AbstractContextManager[Any] = safe_open(folder / WEIGHTS, framework="pt")
    return opened
