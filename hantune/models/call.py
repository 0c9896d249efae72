"""One way to call every family, with or without PEFT around it, in training or at rest."""

from __future__ import annotations

import contextlib
import functools
import inspect
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn


def bare_model(model: nn.Module) -> Any:
    """The transformers model itself: what PEFT wraps (its adapter layers stay in place inside), else ``model``."""
    unwrap = getattr(model, "get_base_model", None)
    return unwrap() if unwrap else model


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Dropout off inside; afterwards every module is in the mode it was in, also where modes were mixed."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def checkpoint_activations(bare: Any) -> None:
    """Let the backward pass of training compute each layer's activations anew instead of keeping them.

    Call it when adapters are in place. transformers and PEFT then let the embeddings want gradients, which only
    torch's older way of doing this needs: the backward pass would go on through layers below which nothing is learned.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # its new name is not in the oldest transformers we take
        bare.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    bare.disable_input_require_grads()


def takes(bare: Any, argument: str) -> bool:
    """Whether the model's ``forward`` names this argument."""
    return argument in _arguments(type(bare).forward)


@functools.cache
def _arguments(function: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)


def model_inputs(
    bare: Any,
    tokens_BT: Tensor,
    *,
    mask_BT: Tensor | None = None,
    positions_BT: Tensor | None = None,
    use_cache: bool,
    cache: Any = None,
) -> dict[str, Any]:
    """Keyword arguments for ``bare``'s forward; BLOOM has no ``position_ids`` and counts through the mask (alibi)."""
    inputs: dict[str, Any] = {"input_ids": tokens_BT, "use_cache": use_cache}
    if mask_BT is not None:
        inputs["attention_mask"] = mask_BT
    if positions_BT is not None and takes(bare, "position_ids"):
        inputs["position_ids"] = positions_BT
    if cache is not None:
        inputs["past_key_values"] = cache
    return inputs
