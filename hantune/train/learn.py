"""What is learned, put into a model. Looks at no weight, so that a model without any can be set up too."""

from __future__ import annotations

from torch import nn

from hantune.config.schema import RunConfig
from hantune.models.adapter import attach_lora
from hantune.models.call import bare_model, checkpoint_activations
from hantune.train.lora_kernels import fuse_lora
from hantune.train.recompute import Recompute


def set_up(model: nn.Module, config: RunConfig, recompute: Recompute) -> nn.Module:
    """The model with the run's adapters, and with activations kept or computed again."""
    if config.adapter.kind == "lora":
        model = attach_lora(model, config.adapter, seed=config.train.seed)
        fuse_lora(model)
    if recompute.is_on:
        checkpoint_activations(bare_model(model))
    return model
