"""Streaming three models through one pass gives what three models in memory give."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from hantune.data.templates import get_template
from hantune.models.adapter import load_adapter, save_adapter
from hantune.models.load import load_model, load_tokenizer
from hantune.models.merge.merge import merge
from hantune.models.merge.sweep import Folder, Sweep, badly_rounded, stacked
from hantune.models.outline import outline, skeleton
from hantune.models.weights import Tensors
from tests.models.conftest import move

ROWS = [[1, 5, 9], [1, 300, 301, 302, 7], [1]]
KINDS: dict[str, dict[str, Any]] = {
    "plain": {"target_modules": "all-linear"},
    "dora": {"target_modules": "all-linear", "use_dora": True},
    "embedding": {"target_modules": ["embed_tokens", "v_proj"]},
    "rows": {"target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [1, 300], "lm_head": [1, 300]}},
    "whole": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "norm"]},
}
BLOOM: dict[str, Any] = {"target_modules": "all-linear"}


@pytest.fixture
def sweep_of(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[..., Any]:
    """(sweep, PeftModel in memory, base in memory, merged in memory) of a tiny model and an adapter of some kind."""

    def make(family: str, config: dict[str, Any]) -> Any:
        base: Path = request.getfixturevalue(f"tiny_{family}_folder")
        model = load_model(base, dtype=torch.float32)
        tuned = move(get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=4, **config)))
        tokenizer, template = load_tokenizer(base), get_template("belle")
        adapter, out = tmp_path / "adapter", tmp_path / "out"
        save_adapter(tuned, adapter, base=str(base), tokenizer=tokenizer, template=template, info={})
        merge(adapter, out, base=str(base))
        names = outline(skeleton(base))
        sweep = Sweep(load_adapter(skeleton(base), adapter), Folder(Tensors(base), names), Folder(Tensors(out), names))
        return sweep, tuned.eval(), load_model(base, dtype=torch.float32), load_model(out, dtype=torch.float32)

    return make


def logits(model: Any, row: list[int]) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=torch.tensor([row])).logits[0]
    return found


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("family", "config"),
    [*(("llama", config) for config in KINDS.values()), ("bloom", BLOOM)],
    ids=[*KINDS, "bloom"],
)
def test_the_three_parts_are_the_three_models(
    family: str, config: dict[str, Any], sweep_of: Callable[..., Any]
) -> None:
    sweep, *models = sweep_of(family, config)
    found = sweep.all_three(stacked(ROWS))
    for logits_BTV, model in zip(found, models, strict=True):
        for number, row in enumerate(ROWS):
            torch.testing.assert_close(logits_BTV[number, : len(row)], logits(model, row), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(sweep.reference(stacked(ROWS)), found[0], rtol=1e-4, atol=1e-4)
    assert sweep.findings.wrong_weights == 0


def test_every_tensor_is_looked_at_and_one_wrong_number_is_counted(
    sweep_of: Callable[..., Any], tmp_path: Path
) -> None:
    sweep, *_ = sweep_of("llama", KINDS["plain"])
    sweep.all_three(stacked(ROWS))
    path = tmp_path / "out" / "model.safetensors"
    tensors = load_file(path)
    assert sweep.findings.checked == set(tensors)
    for name in tensors:
        spoilt = {n: t.clone() for n, t in tensors.items()}
        spoilt[name].view(-1)[-1] += 0.01
        save_file(spoilt, path)
        sweep.merged = Folder(Tensors(tmp_path / "out"), sweep.merged.outline)
        sweep.all_three(stacked(ROWS))
        assert sweep.findings.wrong_weights == 1, name


def test_a_failed_pass_leaves_the_model_as_it_was(sweep_of: Callable[..., Any], tmp_path: Path) -> None:
    sweep, *_ = sweep_of("llama", KINDS["plain"])
    sweep.base = Folder(Tensors(tmp_path), sweep.base.outline)
    with pytest.raises(KeyError):
        sweep.reference(stacked(ROWS))
    assert not any("forward" in vars(module) for module in sweep._model.modules())
    assert all(p.untyped_storage().nbytes() == 4 for n, p in sweep._model.named_parameters() if "lora" not in n)


@given(st.sampled_from([torch.float32, torch.bfloat16, torch.float16]), st.integers(0, 10**6), st.floats(1e-4, 1.0))
def test_correct_rounding_is_never_called_wrong(dtype: torch.dtype, seed: int, scale: float) -> None:
    exact = torch.empty(40, 40).normal_(0, scale, generator=torch.Generator().manual_seed(seed))
    assert badly_rounded(exact, exact.to(dtype)) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_small_wrong_change_is_called_wrong(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    base = torch.empty(256, 256).normal_(0, 0.02, generator=generator).to(dtype).float()
    delta = torch.empty(256, 256).normal_(0, 0.001, generator=generator)
    assert badly_rounded(base + delta, (base + 1.05 * delta).to(dtype)) > 0
    assert badly_rounded(base + delta, base.to(dtype)) > 0
    assert badly_rounded(torch.full((2, 2), float("nan")), torch.zeros(2, 2, dtype=dtype)) == 4
