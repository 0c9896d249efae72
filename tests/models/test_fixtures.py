"""The tiny tokenizers and models of the conftest are what the other tests take them for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch


def test_the_sp_tokenizer_has_the_ids_of_llama_2(sp_tokenizer: Any) -> None:
    assert (sp_tokenizer.unk_token_id, sp_tokenizer.bos_token_id, sp_tokenizer.eos_token_id) == (0, 1, 2)
    assert sp_tokenizer.pad_token_id == 259
    ids = sp_tokenizer.encode("\n", add_special_tokens=False)
    assert ids[-1] == ord("\n") + 3
    assert sp_tokenizer.encode("你好")[0] == 1


@pytest.mark.parametrize("name", ["sp_tokenizer", "byte_tokenizer"])
@pytest.mark.parametrize("text", ["你好, 世界\n\n 魑魅魍魉 🙂 ok", "Assistant: \t你", "  two  blanks "])
def test_any_text_survives_encoding(name: str, text: str, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(name)
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


@pytest.mark.parametrize("name", ["sp_tokenizer", "byte_tokenizer"])
def test_a_saved_tokenizer_loads_the_same(name: str, request: pytest.FixtureRequest) -> None:
    from transformers import AutoTokenizer

    tokenizer = request.getfixturevalue(name)
    loaded = AutoTokenizer.from_pretrained(request.getfixturevalue(f"{name}_folder"))
    text = "<s>你好, how are you?</s>\n### 回答:\n龘"
    assert loaded.encode(text) == tokenizer.encode(text)
    assert (loaded.pad_token_id, len(loaded)) == (tokenizer.pad_token_id, len(tokenizer))
    assert loaded.pad_token_id != loaded.eos_token_id


def test_special_texts_are_one_id_each(byte_tokenizer: Any) -> None:
    for text in ("<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>"):
        assert len(byte_tokenizer.encode(text)) == 1
    assert byte_tokenizer.encode("你")[0] != byte_tokenizer.bos_token_id


def test_models_are_seeded_and_leave_the_generator_alone(tiny_llama: Any, tiny_bloom: Any, sp_tokenizer: Any) -> None:
    before = torch.get_rng_state()
    for make in (tiny_llama, tiny_bloom):
        one, two = make(sp_tokenizer).state_dict(), make(sp_tokenizer).state_dict()
        assert all(torch.equal(one[name], two[name]) for name in one)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", ["tiny_llama_folder", "tiny_bloom_folder"])
def test_model_folders_load(name: str, request: pytest.FixtureRequest) -> None:
    from transformers import AutoModelForCausalLM

    folder: Path = request.getfixturevalue(name)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert model.num_parameters() < 400_000
