"""Engines to answer with: a tiny Llama and a tiny BLOOM, random and always the same.

A model is built once and copied for each test, which may change its own.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from hantune.data.templates import get_template
from hantune.data.tokens import Encoder
from hantune.infer.engine import Engine


@pytest.fixture(scope="session")
def llama_model(tiny_llama: Callable[..., Any], sp_tokenizer: Any) -> Any:
    return tiny_llama(sp_tokenizer)


@pytest.fixture
def llama(llama_model: Any, sp_tokenizer: Any) -> Engine:
    """Llama with the Llama 2 template, 512 tokens of context."""
    return Engine(copy.deepcopy(llama_model), Encoder(sp_tokenizer), get_template("llama2"))


@pytest.fixture
def bloom(tiny_bloom: Callable[..., Any], byte_tokenizer: Any) -> Engine:
    """BLOOM with the BELLE template; weights large enough that it does not only echo (its embeddings are tied)."""
    model = tiny_bloom(byte_tokenizer, seed=1, initializer_range=0.3)
    return Engine(model, Encoder(byte_tokenizer), get_template("belle"))


@pytest.fixture(scope="session")
def lora_model(llama_model: Any) -> Any:
    """The Llama under an adapter that changes its answers."""
    import torch
    from peft import LoraConfig, get_peft_model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        config = LoraConfig(target_modules="all-linear", init_lora_weights=False, lora_alpha=64)
        return get_peft_model(copy.deepcopy(llama_model), config)


@pytest.fixture
def lora(lora_model: Any, sp_tokenizer: Any) -> Engine:
    """It answers under the adapter ``default``."""
    model = copy.deepcopy(lora_model)
    return Engine(model, Encoder(sp_tokenizer), get_template("llama2"), name="tiny", adapter="adapter")


@pytest.fixture
def gpt2(byte_tokenizer: Any) -> Engine:
    """GPT-2, whose learned absolute positions show where padding shifts them (rotary ones only see distances)."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    ends = {"bos_token_id": byte_tokenizer.bos_token_id, "eos_token_id": byte_tokenizer.eos_token_id}
    shape = {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": len(byte_tokenizer), "initializer_range": 0.3}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = GPT2LMHeadModel(GPT2Config(**shape, **ends)).eval()
    return Engine(model, Encoder(byte_tokenizer), get_template("belle"))


@pytest.fixture(params=["llama", "bloom", "lora", "gpt2"])
def engine(request: pytest.FixtureRequest) -> Engine:
    """Each of them."""
    return request.getfixturevalue(request.param)  # type: ignore[no-any-return]
