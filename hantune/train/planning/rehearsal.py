"""A step of a run before its weights are loaded: the same code, on a model that has shapes and no contents.

What a run decides by looking at numbers (which modules are fused, whether the head comes last) is decided here on a
model of one layer whose parameters are all the same number, seen as whole tensors. Where all layers are alike, two and
three of them tell what any number takes.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from hantune.config.schema import RunConfig
from hantune.data.batch import Batch
from hantune.models import attention
from hantune.models.call import bare_model, evaluating, takes
from hantune.models.load import attention_of, model_class, quiet_transformers
from hantune.models.loss import assume_head, is_head_last, supervised_nats
from hantune.models.prepack import added_bytes
from hantune.models.stand_in import Live, stand_in
from hantune.train.floor import Work
from hantune.train.frozen import compute_densely
from hantune.train.learn import set_up
from hantune.train.optim import state_bytes, trained_parameters
from hantune.train.planning.flops import work_or_guess
from hantune.train.planning.target import Target
from hantune.train.pointwise import fuse_attention, fuse_pointwise
from hantune.train.precision import Precision
from hantune.train.recompute import Recompute
from hantune.train.step import add_gradients

PLACE = torch.device("cpu")
"""Where tensors without contents claim to be: a build of torch without CUDA knows no other place."""
SAME = 0.01
"""What every parameter of the model of one layer holds."""
FEW_WORDS = 64
"""Rows of the embedding, and width of the MLP, of the model of one layer."""
FEW = (2, 3)
"""So many layers are gone through where all are alike."""


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """Bytes of tensors in a step. ``peak``: the most at once; the parts are not all there at the same moment.
    ``prepacked``: what weights in oneDNN's order take on top of all this, 0 without them.

    ``base``: weights that are not learned; ``learned``: those that are; ``activations``: what a micro-batch keeps for
    its backward pass; ``evaluation``: the peak while the held-out loss is taken.
    """

    base: int
    learned: int
    gradients: int
    optimizer: int
    activations: int
    peak: int
    evaluation: int
    prepacked: int = 0

    @property
    def standing(self) -> int:
        """What is there all the time."""
        return self.base + self.prepacked + self.learned + self.optimizer

    @property
    def most(self) -> int:
        """The most at any time."""
        return max(self.peak, self.evaluation) + self.prepacked

    @property
    def rest(self) -> int:
        """What passes: logits, temporary results."""
        return max(0, self.peak + self.prepacked - self.standing - self.activations)

    def as_dict(self) -> dict[str, int]:
        return {**asdict(self), "rest": self.rest}


@dataclass(frozen=True, kw_only=True)
class Rehearsed:
    """What was found out about a step on plain weights. ``learned``: numbers that are trained; ``prepacking``: bytes
    that weights in oneDNN's order would take on top."""

    footprint: Footprint
    work: Work
    learned: int
    prepacking: int


@dataclass(frozen=True, kw_only=True)
class Traits:
    """What a run finds out about a kind of model. ``forwards``: passes that it replaces, by class."""

    packs_fast: bool
    can_pack: bool
    is_head_last: bool
    forwards: dict[type, Callable[..., Any]]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Whose step is rehearsed, in which numbers, and where."""

    config: RunConfig
    folder: Path
    precision: Precision
    recompute: Recompute
    target: Target

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        if not self.precision.needs_autocast:
            return contextlib.nullcontext()
        return torch.autocast(PLACE.type, dtype=self.precision.compute)


def rehearse(stage: Stage, traits: Traits, batch: Batch, held_out: Batch | None, *, times: int = 1) -> Rehearsed:
    """What an update takes that goes over a micro-batch ``times`` times, and one batch of evaluation.

    Raises: ConfigError ``adapter.no-such-layer``; MachineError ``machine.no-bitsandbytes``.
    """
    layers = model_class(stage.folder)[0].get_text_config().num_hidden_layers
    alike = stage.config.adapter.kind == "lora" and stage.config.adapter.layers_to_transform is None
    few = FEW if alike and layers > sum(FEW) else (layers,)
    found = [_rehearsed(stage, traits, batch, held_out, times, count) for count in few]
    return found[0] if len(found) == 1 else _extended(found[0], found[1], layers - FEW[1])


def _rehearsed(
    stage: Stage, traits: Traits, batch: Batch, held_out: Batch | None, times: int, layers: int
) -> Rehearsed:
    """The same on a model of so many layers."""
    live = Live()
    model = _set_up(stage, traits, layers)
    with live:
        stand_in(model, PLACE, load=stage.config.model.load)
    compute_densely(model)
    model.train()
    parameters = trained_parameters(model)
    learned = sum(p.numel() * p.element_size() for p in parameters.values())
    section = stage.config.train
    optimizer = state_bytes(parameters.values(), section) + (learned if section.ema_decay else 0)
    weights = live.peak = live.now
    run = _Pass(stage, live)
    is_card = stage.target.device.type == "cuda"
    with live, attention.rehearsing_a_card() if is_card else contextlib.nullcontext():
        if times > 1:  # no pass takes more than the last, which finds the gradients of those before it
            for parameter in parameters.values():
                parameter.grad = torch.zeros_like(parameter)
        add_gradients(model, run, section, batch, supervised=1)
        peak = live.peak
        model.zero_grad(set_to_none=True)
        evaluation = _evaluation(stage, model, held_out, live) if held_out is not None else 0
    footprint = Footprint(
        base=weights - learned,
        learned=learned,
        gradients=learned,
        optimizer=optimizer,
        activations=run.activations,
        peak=peak + optimizer,
        evaluation=evaluation + optimizer,
    )
    return Rehearsed(
        footprint=footprint,
        work=work_or_guess(model),
        learned=sum(p.numel() for p in parameters.values()),
        prepacking=added_bytes(model),
    )


def _extended(first: Rehearsed, second: Rehearsed, more: int) -> Rehearsed:
    """What ``more`` layers make of it, each of which adds as much as ``second`` has on top of ``first``."""

    def grown(one: Any, other: Any, names: tuple[str, ...]) -> Any:
        values = {name: getattr(other, name) + more * (getattr(other, name) - getattr(one, name)) for name in names}
        return replace(other, **values)

    return Rehearsed(
        learned=second.learned + more * (second.learned - first.learned),
        prepacking=second.prepacking + more * (second.prepacking - first.prepacking),
        footprint=grown(first.footprint, second.footprint, tuple(asdict(first.footprint))),
        work=grown(first.work, second.work, ("token", "label", "pair")),
    )


def _evaluation(stage: Stage, model: nn.Module, batch: Batch, live: Live) -> int:
    """The most bytes of tensors while the held-out loss of a batch is taken."""
    with evaluating(model), torch.no_grad(), stage.autocast():
        live.peak = live.now
        supervised_nats(model, batch.to(PLACE))
        return live.peak


class _Pass:
    """As much of an accelerator as ``add_gradients`` needs; notes what is held when the backward pass begins."""

    def __init__(self, stage: Stage, live: Live) -> None:
        self.device, self.autocast = PLACE, stage.autocast
        self._live, self._before = live, live.now
        self.activations = 0

    def backward(self, loss: Tensor) -> None:
        self.activations = max(self.activations, self._live.now - self._before)
        loss.backward()  # type: ignore[no-untyped-call]


def find_traits(config: RunConfig, folder: Path, precision: Precision) -> Traits:
    """What a run would find out about the model of ``folder``, from one layer of it."""
    settings, family = model_class(folder)
    settings = _narrow(_with_layers(settings, 1))
    settings._attn_implementation = attention_of(folder)
    longest = None if config.train.batching == "sorted" else config.data.max_tokens
    return _traits(family, _Known(settings), precision.weights, longest)


@dataclass(frozen=True, eq=False)
class _Known:
    """A model's settings, the same as others with the same text."""

    settings: Any

    def __hash__(self) -> int:
        return hash(self.settings.to_json_string())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Known) and self.settings.to_json_string() == other.settings.to_json_string()


@functools.lru_cache(maxsize=16)
def _traits(family: Any, known: _Known, dtype: torch.dtype, longest: int | None) -> Traits:
    """``longest``: of a packed document; None where nothing is packed."""
    from accelerate import init_empty_weights

    with quiet_transformers(), init_empty_weights(include_buffers=False):
        model = family(known.settings).eval()
    value = torch.full((), SAME, dtype=dtype)
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(value.expand(parameter.shape), requires_grad=False))
    packs_fast = longest is not None and attention.use(model, longest=longest)
    fuse_pointwise(model)  # Liger's kernels, which a card has instead, keep as much
    fuse_attention(model)
    replaced = (m for m in model.modules() if "forward" in vars(m))
    return Traits(
        packs_fast=packs_fast,
        can_pack=takes(model, "position_ids"),
        is_head_last=is_head_last(model),
        forwards={type(module): module.forward.__func__ for module in replaced},
    )


def outlined(folder: Path, dtype: torch.dtype, *, layers: int | None = None, attends: str | None = None) -> nn.Module:
    """A folder's model on the meta device. ``layers``: only so many; ``attends``: by another attention."""
    settings, family = model_class(folder)
    settings = settings if layers is None else _with_layers(settings, layers)
    settings._attn_implementation = attends or attention_of(folder)
    with quiet_transformers(), torch.device("meta"):
        model = family._from_config(settings, dtype=dtype)
        model.tie_weights()
    return model.eval()  # type: ignore[no-any-return]


def _set_up(stage: Stage, traits: Traits, layers: int) -> nn.Module:
    """The run's model on the meta device, with so many layers."""
    attends = attention.NAME if traits.packs_fast else None
    model = outlined(stage.folder, stage.precision.weights, layers=layers, attends=attends)
    with torch.device("meta"):
        model = set_up(model, stage.config, stage.recompute)
    for module in model.modules():
        if type(module) in traits.forwards:
            module.forward = MethodType(traits.forwards[type(module)], module)
    assume_head(bare_model(model), traits.is_head_last)
    return model


def _narrow(settings: Any) -> Any:
    """A model's settings with few words and a narrow MLP: its code is the same, and most of its matrices are small."""
    text = settings.get_text_config()
    for name in ("vocab_size", "intermediate_size", "ffn_dim", "n_inner"):
        if isinstance(getattr(text, name, None), int):
            setattr(text, name, min(getattr(text, name), FEW_WORDS))
    for part in (settings, text):
        part.pad_token_id = None  # an embedding has no row for it any more
    return settings


def _with_layers(settings: Any, count: int) -> Any:
    """A model's settings with so many layers."""
    settings = deepcopy(settings)
    text = settings.get_text_config()
    text.num_hidden_layers = count
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:count]
    return settings
