"""Names of parameters from the model's code alone, and skeletons that weigh nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from hantune.models.load import load_model
from hantune.models.outline import outline, skeleton


@pytest.mark.parametrize("family", ["llama", "bloom"])
def test_a_skeleton_has_the_parameters_of_the_model_without_their_memory(
    family: str, request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue(f"tiny_{family}_folder")
    bones, model = skeleton(folder), load_model(folder, dtype=torch.float32)
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters(remove_duplicate=False)}
    assert {name: tuple(p.shape) for name, p in bones.named_parameters(remove_duplicate=False)} == shapes
    assert all(p.untyped_storage().nbytes() == 4 for p in bones.parameters())
    buffers = dict(model.named_buffers())
    assert all(torch.equal(value, buffers[name]) for name, value in bones.named_buffers())


def test_linear_layers_are_all_but_the_head(tiny_llama_folder: Path, tiny_bloom_folder: Path) -> None:
    names = {name.split(".")[-2] for name in outline(skeleton(tiny_llama_folder)).linear}
    assert names == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    names = {name.split(".")[-2] for name in outline(skeleton(tiny_bloom_folder)).linear}
    assert names == {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"}


def test_files_may_leave_the_prefix_and_the_tied_head_away(tiny_bloom_folder: Path) -> None:
    found: Any = outline(skeleton(tiny_bloom_folder))
    embedding, head = "transformer.word_embeddings.weight", "lm_head.weight"
    assert found.tied == (embedding, head)
    assert found.stored(head, {"word_embeddings.weight"}) == "word_embeddings.weight"
    assert found.stored(head, {"word_embeddings.weight", head}) == head
    assert found.stored("transformer.ln_f.bias", {"ln_f.bias"}) == "ln_f.bias"
    assert found.stored("ln_f.bias", {"transformer.ln_f.bias"}) == "transformer.ln_f.bias"
    assert found.stored("transformer.h.9.x", {"ln_f.bias"}) is None
