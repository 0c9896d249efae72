"""What an adapter changes, against PEFT's own merge for every setting that we take."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from hantune.errors import ModelError
from hantune.models.merge.deltas import open_adapter, read_deltas, scaling_of
from tests.models.conftest import move

SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {"target_modules": "all-linear"},
    "rslora": {"target_modules": ["q_proj", "v_proj"], "use_rslora": True, "lora_alpha": 5},
    "patterns": {
        "target_modules": "all-linear",
        "rank_pattern": {"q_proj": 2, "model.layers.1.mlp.up_proj": 7},
        "alpha_pattern": {"layers.0.self_attn.k_proj": 40, "down_proj": 3},
    },
    "replaced": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "embed_tokens", "norm"]},
    "head": {"target_modules": ["lm_head", "q_proj"]},
    "embedding": {"target_modules": ["embed_tokens", "o_proj"]},
    "rows": {"target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [3, 260, 7]}},
    "first-rows": {"target_modules": ["q_proj"], "trainable_token_indices": [5, 6]},
    "both-rows": {
        "target_modules": ["q_proj"],
        "trainable_token_indices": {"embed_tokens": [3, 260, 7], "lm_head": [3, 260, 7]},
    },
    "dora": {"target_modules": "all-linear", "use_dora": True},
    "dora-patterns": {
        "target_modules": ["q_proj", "up_proj"], "use_dora": True, "use_rslora": True, "rank_pattern": {"up_proj": 2},
    },
}  # fmt: skip


def whole(change: Any, weight: torch.Tensor, step: int = 7) -> torch.Tensor:
    """A change carried out some rows at a time."""
    if change is None:
        return weight
    rows = change()
    return torch.cat([rows(part.clone(), number * step) for number, part in enumerate(weight.split(step))])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", list(SETTINGS))
def test_the_changes_are_those_of_peft(name: str, tiny_llama: Any, sp_tokenizer: Any, tmp_path: Path) -> None:
    base = tiny_llama(sp_tokenizer)
    tuned = move(get_peft_model(copy.deepcopy(base), LoraConfig(task_type="CAUSAL_LM", r=4, **SETTINGS[name])))
    tuned.save_pretrained(tmp_path, save_embedding_layers=False)
    merged = dict(tuned.merge_and_unload().named_parameters())
    with open_adapter(tmp_path) as file:
        deltas = read_deltas(tmp_path, file)
        assert deltas.changes.keys() <= merged.keys()
        for key, parameter in base.named_parameters():
            found = whole(deltas.changes.get(key), parameter.detach())
            torch.testing.assert_close(found, merged[key].detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_conv1d_is_turned(byte_tokenizer: Any, tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    base = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=len(byte_tokenizer)))
    config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["c_attn", "c_proj"], fan_in_fan_out=True)
    tuned = move(get_peft_model(copy.deepcopy(base), config))
    tuned.save_pretrained(tmp_path, save_embedding_layers=False)
    merged = dict(tuned.merge_and_unload().named_parameters())
    with open_adapter(tmp_path) as file:
        for key, change in read_deltas(tmp_path, file).changes.items():
            found = whole(change, base.get_parameter(key).detach())
            torch.testing.assert_close(found, merged[key].detach(), rtol=1e-5, atol=1e-6)


def test_scaling_is_by_rank_or_its_root() -> None:
    assert scaling_of(LoraConfig(r=16, lora_alpha=8), "a.q_proj") == 0.5
    assert scaling_of(LoraConfig(r=16, lora_alpha=8, use_rslora=True), "a.q_proj") == 2.0
    patterned = LoraConfig(r=16, lora_alpha=8, rank_pattern={"q_proj": 4}, alpha_pattern={r"layers\.\d+\.k_proj": 32})
    assert scaling_of(patterned, "a.q_proj") == 2.0
    assert scaling_of(patterned, "layers.3.k_proj") == 2.0
    assert scaling_of(patterned, "layers.3.v_proj") == 0.5


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("config", "word"),
    [
        ({"use_dora": True, "target_modules": ["v_proj", "embed_tokens"]}, "DoRA"),
        ({"target_parameters": ["q_proj.weight"]}, "target_parameters"),
    ],
)
def test_what_is_no_plain_sum_is_refused(
    config: dict[str, Any], word: str, tiny_llama: Any, sp_tokenizer: Any, tmp_path: Path
) -> None:
    tuned = move(
        get_peft_model(tiny_llama(sp_tokenizer), LoraConfig(**{"r": 4, "target_modules": ["v_proj"], **config}))
    )
    tuned.save_pretrained(tmp_path, save_embedding_layers=False)
    with open_adapter(tmp_path) as file, pytest.raises(ModelError) as caught:
        read_deltas(tmp_path, file)
    assert caught.value.code == "merge.unsupported"
    assert word in caught.value.message


@pytest.mark.filterwarnings("ignore")
def test_other_kinds_of_adapter_are_refused(tiny_llama: Any, sp_tokenizer: Any, tmp_path: Path) -> None:
    from peft import IA3Config

    config = IA3Config(task_type="CAUSAL_LM", target_modules=["k_proj"], feedforward_modules=[])
    get_peft_model(tiny_llama(sp_tokenizer), config).save_pretrained(tmp_path)
    with open_adapter(tmp_path) as file, pytest.raises(ModelError, match="IA3"):
        read_deltas(tmp_path, file)
