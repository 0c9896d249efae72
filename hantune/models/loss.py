"""The one loss of training and evaluation: nats of the supervised tokens, summed.

The head (32,000 to 250,880 columns) runs only on rows that are learned, so prompts and padding cost no logits.
Shape letters: B rows, T positions, D width, V vocabulary, N supervised positions of the batch.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from hantune.data.batch import IGNORED, Batch
from hantune.models import attention
from hantune.models.call import bare_model, evaluating, model_inputs
from hantune.models.head import summed_cross_entropy

_head_is_last: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def supervised_nats(model: nn.Module, batch: Batch, *, smoothing: float = 0.0) -> tuple[Tensor, int]:
    """Nats of the supervised tokens, summed (float32 scalar with gradient), and how many they are.

    ``smoothing``: the share of each target's probability that goes to all tokens of the vocabulary alike.
    Law: equal to the cross-entropy of the full logits; tokens without a label change no bit of loss or gradient,
    except through what later tokens see of them.
    """
    bare = bare_model(model)
    kept_N = (batch.labels_BT.flatten() != IGNORED).nonzero().squeeze(1)
    targets_N = batch.labels_BT.flatten()[kept_N]
    if is_head_last(bare):
        hidden_BTD = _decoder(bare)(**_inputs(bare, batch))[0]
        rows_ND = hidden_BTD.flatten(0, 1).index_select(0, kept_N)
        total = summed_cross_entropy(bare.get_output_embeddings(), rows_ND, targets_N, smoothing=smoothing)
    else:
        logits_BTV = bare(**_inputs(bare, batch)).logits
        rows_NV = logits_BTV.flatten(0, 1).index_select(0, kept_N)
        total = summed_cross_entropy(nn.Identity(), rows_NV, targets_N, smoothing=smoothing)
    return total, len(targets_N)


def _inputs(bare: Any, batch: Batch) -> dict[str, Any]:
    """What the batch holds, for a pass without a cache: with one, transformers lets packed documents see each other."""
    inputs = model_inputs(
        bare, batch.tokens_BT, mask_BT=batch.mask_BT, positions_BT=batch.positions_BT, use_cache=False
    )
    if batch.documents is not None and bare.config._attn_implementation == attention.NAME:
        inputs |= attention.packed_inputs(batch.documents, batch.tokens_BT)
    return inputs


def _decoder(bare: Any) -> Any:
    """The part below the head, or None where a model has no such part."""
    return getattr(bare, bare.base_model_prefix or "model", None)


def is_head_last(bare: Any) -> bool:
    """Whether logits are exactly ``head(decoder(tokens))``: no scaling or soft cap before or after the head.

    Found once per model by a probe: the head's output is replaced by large known numbers that any cap or factor would
    change (a random model's own logits are too small to show a cap), and what it was given is compared.
    """
    if bare not in _head_is_last:
        _head_is_last[bare] = _probe(bare)
    return _head_is_last[bare]


def assume_head(bare: Any, is_last: bool) -> None:
    """Take ``is_head_last`` as known, for a model that has no weights to find it out with."""
    _head_is_last[bare] = is_last


def _probe(bare: Any) -> bool:
    decoder, head = _decoder(bare), bare.get_output_embeddings()
    if decoder is None or decoder is bare or head is None:
        return False
    given: list[Tensor] = []

    def replace_output(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        given.append(inputs[0])
        return torch.linspace(-100, 100, output.shape[-1], device=output.device).to(output.dtype).expand_as(output)

    tokens_BT = torch.arange(4, device=bare.device).unsqueeze(0)
    inputs = model_inputs(bare, tokens_BT, use_cache=False)
    hook = head.register_forward_hook(replace_output)
    try:
        with evaluating(bare), torch.no_grad():
            hidden_BTD = decoder(**inputs)[0]
            logits_BTV = bare(**inputs).logits
    finally:
        hook.remove()
    planted_V = torch.linspace(-100, 100, logits_BTV.shape[-1], device=logits_BTV.device)
    return (
        len(given) == 1
        and torch.allclose(given[0].float(), hidden_BTD.float(), rtol=1e-3, atol=1e-5)
        and torch.allclose(logits_BTV.float(), planted_V.expand_as(logits_BTV), rtol=1e-2, atol=1e-1)
    )
