"""Laws of calling a model: modes come back, and only named arguments are passed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from hantune.models.call import bare_model, checkpoint_activations, evaluating, model_inputs, takes


def test_modes_come_back_even_when_they_were_mixed_and_the_work_failed() -> None:
    model = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Linear(2, 2))
    model.train()
    model[1].eval()

    def work() -> None:
        with evaluating(model):
            assert not any(module.training for module in model.modules())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    assert [module.training for module in model.modules()] == [True, True, False]


def test_bloom_is_given_no_positions_and_llama_is(
    tiny_llama: Callable[..., Any], tiny_bloom: Callable[..., Any], sp_tokenizer: Any, byte_tokenizer: Any
) -> None:
    tokens_BT = torch.tensor([[5, 6]])
    positions_BT = torch.tensor([[0, 1]])
    given = [
        set(model_inputs(model, tokens_BT, positions_BT=positions_BT, use_cache=False))
        for model in (tiny_llama(sp_tokenizer), tiny_bloom(byte_tokenizer))
    ]
    assert given == [{"input_ids", "use_cache", "position_ids"}, {"input_ids", "use_cache"}]


def test_bare_model_looks_through_peft(tiny_llama: Callable[..., Any], sp_tokenizer: Any) -> None:
    from peft import LoraConfig, get_peft_model

    model = tiny_llama(sp_tokenizer)
    assert bare_model(model) is model
    wrapped = get_peft_model(model, LoraConfig(target_modules=["q_proj"]))
    assert bare_model(wrapped) is model
    assert takes(bare_model(wrapped), "logits_to_keep")


def test_checkpointed_activations_change_no_gradient_and_want_none_of_the_embeddings(
    tiny_llama: Callable[..., Any], sp_tokenizer: Any
) -> None:
    ids = torch.tensor([[1, 5, 9, 300]])
    found = []
    for is_checkpointed in (False, True):
        model = tiny_llama(sp_tokenizer).train()
        model.model.embed_tokens.requires_grad_(False)
        if is_checkpointed:
            checkpoint_activations(model)
            assert model.is_gradient_checkpointing
        assert not model.model.embed_tokens(ids).requires_grad
        model(input_ids=ids, labels=ids).loss.backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(gradient, found[1][name]) for name, gradient in found[0].items())
