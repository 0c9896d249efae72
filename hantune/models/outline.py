"""A model's code without its weights: which parameters there are, what files call them, which are one tensor."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hantune.models.load import model_class, quiet_transformers


@dataclass(frozen=True, kw_only=True)
class Outline:
    """Names of parameters: ``model.layers.0.mlp.up_proj.weight``."""

    prefix: str
    """The name of the body with a dot: ``model.``, ``transformer.``; some files (BLOOM's) leave it away."""
    embedding: str
    tied: tuple[str, ...]
    """Embedding and head where the config makes them one tensor, else nothing."""
    linear: frozenset[str]
    """The matrices of all linear layers but the head: what loading in 4 or 8 bits quantises."""
    turned: frozenset[str]
    """Those of ``linear`` that are stored I x O (GPT-2's ``Conv1D``)."""

    def stored(self, name: str, names: Container[str]) -> str | None:
        """Which of a file's ``names`` holds the parameter ``name``; None if none does."""
        wanted = (name, *self.tied) if name in self.tied else (name,)
        spelt = (s for n in wanted for s in (n, n.removeprefix(self.prefix), self.prefix + n))
        return next((s for s in spelt if s in names), None)


def skeleton(folder: Path) -> Any:
    """The causal language model of a folder in eval mode, every parameter one zero that is seen as a whole tensor.

    So it takes no memory, and PEFT, which wants to know where the base's weights are, finds them on the CPU. Buffers
    (rotary tables) are real.
    """
    from accelerate import init_empty_weights

    config, family = model_class(folder)
    with quiet_transformers(), init_empty_weights(include_buffers=False):
        model = family(config).eval()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            zeros = torch.zeros((), dtype=torch.float32).expand(parameter.shape)
            setattr(module, name, nn.Parameter(zeros, requires_grad=False))
    return model


def outline(model: Any) -> Outline:
    """The names of a model as its own code has them."""
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    places = {id(module): f"{name}.weight" for name, module in model.named_modules()}
    embedding = places[id(model.get_input_embeddings())]
    turned = frozenset(f"{name}.weight" for name, m in model.named_modules() if isinstance(m, Conv1D))
    linear = (f"{name}.weight" for name, m in model.named_modules() if isinstance(m, nn.Linear) and m is not head)
    return Outline(
        prefix=model.base_model_prefix + ".",
        embedding=embedding,
        tied=(embedding, places[id(head)]) if model.config.tie_word_embeddings else (),
        linear=turned.union(linear),
        turned=turned,
    )
