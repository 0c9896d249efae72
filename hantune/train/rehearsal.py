"""A step of a run before its weights are loaded: the same code, on a model that has shapes and no contents.

What a run decides by looking at numbers (which modules are fused, whether the head comes last) is decided here on a
model of one layer whose parameters are all the same number, seen as whole tensors.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, dataclass
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
from hantune.models.memory import Live, stand_in
from hantune.train.frozen import compute_densely
from hantune.train.learn import set_up
from hantune.train.optim import state_bytes, trained_parameters
from hantune.train.pointwise import fuse_attention, fuse_pointwise
from hantune.train.precision import Precision
from hantune.train.recompute import Recompute
from hantune.train.step import add_gradients
from hantune.train.target import Target

SAME = 0.01
"""What every parameter of the model of one layer holds."""


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """Bytes of tensors in a step. ``peak``: the most at once; the parts are not all there at the same moment.

    ``base``: weights that are not learned; ``learned``: those that are; ``activations``: what the longest micro-batch
    keeps for its backward pass.
    """

    base: int
    learned: int
    gradients: int
    optimizer: int
    activations: int
    peak: int

    @property
    def rest(self) -> int:
        """What passes: logits, temporary results."""
        return max(0, self.peak - self.base - self.learned - self.optimizer - self.activations)

    def as_dict(self) -> dict[str, int]:
        return {**asdict(self), "rest": self.rest}


@dataclass(frozen=True, kw_only=True)
class Traits:
    """What a run finds out about a kind of model: forward passes that are replaced, by class."""

    packs_fast: bool
    can_pack: bool
    is_head_last: bool
    forwards: dict[type, Callable[..., Any]]


class Rehearsal:
    """The model of a run without weights. ``traits``: what was found out about its kind."""

    def __init__(
        self, config: RunConfig, folder: Path, precision: Precision, recompute: Recompute, target: Target
    ) -> None:
        self._config, self._device, self.precision = config, target.stand_in, precision
        self.traits = find_traits(config, folder, precision, target.device)
        self.live = Live()
        self.model = _outlined(config, folder, precision, recompute, self.traits)
        with self.live:
            stand_in(self.model, self._device, load=config.model.load)
        compute_densely(self.model)
        self.model.train()
        self.parameters = trained_parameters(self.model)
        self._weights = self.live.now

    def step(self, batch: Batch, *, times: int = 1) -> Footprint:
        """What an update takes that goes over this micro-batch ``times`` times."""
        learned = sum(p.numel() * p.element_size() for p in self.parameters.values())
        moments = state_bytes(self.parameters.values(), self._config.train)
        moments += learned if self._config.train.ema_decay else 0
        with self.live:
            self.live.peak = self.live.now
            run = _Pass(self._device, self.precision, self.live)
            for _ in range(times):
                add_gradients(self.model, run, self._config.train, batch, supervised=1)  # type: ignore[arg-type]
            peak = self.live.peak + moments
            self.model.zero_grad(set_to_none=True)
        return Footprint(
            base=self._weights - learned,
            learned=learned,
            gradients=learned,
            optimizer=moments,
            activations=run.activations,
            peak=peak,
        )

    def evaluation(self, batch: Batch) -> int:
        """The most bytes while the held-out loss of a batch is taken, without what the optimiser holds."""
        with self.live, evaluating(self.model), torch.no_grad(), _autocast(self._device, self.precision):
            self.live.peak = self.live.now
            supervised_nats(self.model, batch.to(self._device))
            return self.live.peak


class _Pass:
    """As much of an accelerator as ``add_gradients`` needs; notes what is held when the backward pass begins."""

    def __init__(self, device: torch.device, precision: Precision, live: Live) -> None:
        self.device, self._precision, self._live = device, precision, live
        self._before = live.now
        self.activations = 0

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        return _autocast(self.device, self._precision)

    def backward(self, loss: Tensor) -> None:
        self.activations = self._live.now - self._before
        loss.backward()  # type: ignore[no-untyped-call]


def _autocast(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager[Any]:
    if not precision.needs_autocast:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=precision.compute)


def find_traits(config: RunConfig, folder: Path, precision: Precision, device: torch.device) -> Traits:
    """What a run would find out about the model of ``folder``, from one layer of it."""
    from accelerate import init_empty_weights

    settings, family = model_class(folder)
    settings = deepcopy(settings)
    settings.num_hidden_layers = 1
    if getattr(settings, "layer_types", None):
        settings.layer_types = settings.layer_types[:1]
    settings._attn_implementation = attention_of(folder)
    with quiet_transformers(), init_empty_weights(include_buffers=False):
        model = family(settings).eval()
    value = torch.full((), SAME, dtype=precision.weights)
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(value.expand(parameter.shape), requires_grad=False))
    packs_fast = config.train.batching != "sorted" and attention.use(model, longest=config.data.max_tokens)
    if device.type == "cpu":
        fuse_pointwise(model)
        fuse_attention(model)
    replaced = (m for m in model.modules() if "forward" in vars(m))
    return Traits(
        packs_fast=packs_fast,
        can_pack=takes(model, "position_ids"),
        is_head_last=is_head_last(model),
        forwards={type(module): module.forward.__func__ for module in replaced},
    )


def _outlined(
    config: RunConfig, folder: Path, precision: Precision, recompute: Recompute, traits: Traits
) -> nn.Module:
    """The run's model on the meta device."""
    settings, family = model_class(folder)
    settings._attn_implementation = attention.NAME if traits.packs_fast else attention_of(folder)
    with quiet_transformers(), torch.device("meta"):
        model = family._from_config(settings, dtype=precision.weights)
        model.tie_weights()
        model = set_up(model.eval(), config, recompute)
    for module in model.modules():
        if type(module) in traits.forwards:
            module.forward = MethodType(traits.forwards[type(module)], module)
    assume_head(bare_model(model), traits.is_head_last)
    return model

