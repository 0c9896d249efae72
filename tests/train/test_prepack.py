"""Training on prepacked weights: it learns the same, goes on exactly, and is chosen where it pays and fits."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hantune.config.schema import AdapterSection
from hantune.data.batch import collate
from hantune.data.types import Example
from hantune.models import prepack as layout
from hantune.models.adapter import attach_lora
from hantune.models.load import load_model
from hantune.models.loss import supervised_nats
from hantune.models.prepack import is_prepacked, prepack
from hantune.train import checkpoint as checkpoints
from hantune.train import prepack as choice
from hantune.train.frozen import compute_densely
from hantune.train.lora_kernels import fuse_lora
from hantune.train.planning.forecast import forecast
from hantune.train.prepack import Prepack, carried_out, choose_prepack, obstacle_to
from hantune.train.recompute import Recompute
from hantune.train.run import resume, train
from tests.runs import folder_bytes, small_config, story, unfinished

GB = 1 << 30
CPU = torch.device("cpu")
EXAMPLES = [
    Example(ids=tuple(range(3, 3 + count)), mask=(False,) * 2 + (True,) * (count - 2), source="a.jsonl:1")
    for count in (6, 9, 12)
]

KEPT = Recompute(is_on=False, reason="")
OFTEN = {"train__save_every_steps": 1, "train__max_steps": 4}

if not torch.backends.mkldnn.is_available():
    pytest.skip("oneDNN", allow_module_level=True)


@pytest.fixture(autouse=True)
def _always(monkeypatch: pytest.MonkeyPatch) -> None:
    for place in (layout, choice):
        monkeypatch.setattr(place, "pays", lambda dtype: True)


@pytest.mark.parametrize(
    ("asked", "obstacle", "predicted", "available", "is_on", "words"),
    [
        ("auto", None, 8 * GB, 10 * GB, True, "放得下"),
        ("auto", None, 9.5 * GB, 10 * GB, False, "放不下"),
        ("auto", None, 8 * GB, None, True, "更快"),
        ("auto", "显卡用不着", 1, 10 * GB, False, "显卡"),
        (True, "显卡用不着", 1, 10 * GB, False, "显卡"),
        (True, None, 99 * GB, 10 * GB, True, "指定"),
        (False, None, 1, 10 * GB, False, "关掉"),
    ],
)
def test_it_is_on_where_it_pays_and_fits(
    asked: Any, obstacle: Any, predicted: Any, available: Any, is_on: bool, words: str
) -> None:
    found = choose_prepack(asked, obstacle, KEPT, predicted=predicted, available=available)
    assert found.is_on is is_on
    assert words in found.reason


def test_who_saves_memory_by_computing_again_spends_none_unasked() -> None:
    again = Recompute(is_on=True, reason="")
    assert not choose_prepack("auto", None, again, predicted=1, available=None).is_on
    assert choose_prepack(True, None, again, predicted=1, available=None).is_on


def test_nothing_is_laid_out_for_cards_full_training_or_a_quantised_base(
    tiny_llama_folder: Path, prepared: Path, tmp_path: Path
) -> None:
    config = small_config(tiny_llama_folder, prepared, tmp_path)
    assert obstacle_to(config, CPU, torch.float32) is None
    assert obstacle_to(config, torch.device("cuda"), torch.bfloat16)
    full = config.model_copy(update={"adapter": config.adapter.model_copy(update={"kind": "none"})})
    assert obstacle_to(full, CPU, torch.float32)
    packed = config.model_copy(update={"model": config.model.model_copy(update={"load": "4bit"})})
    assert obstacle_to(packed, CPU, torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("targets", ["all-linear", ("q_proj", "down_proj")])
def test_losses_and_gradients_are_those_of_plain_weights(
    dtype: torch.dtype, targets: Any, tiny_llama_folder: Path
) -> None:
    """Also of layers without an adapter, which gradients only pass through."""

    def gradients(is_on: bool) -> dict[str, torch.Tensor]:
        model = load_model(tiny_llama_folder, dtype=dtype)
        tuned: Any = attach_lora(model, AdapterSection(rank=4, targets=targets), seed=0)
        draw = torch.Generator().manual_seed(3)
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                parameter.data.normal_(0, 0.1, generator=draw)
        fuse_lora(tuned)
        if is_on:
            carried_out(Prepack(is_on=True, reason=""), tuned)
            assert sum(map(is_prepacked, tuned.modules())) > 10
        nats, _ = supervised_nats(tuned.train(), collate(EXAMPLES, layout="sorted", pad_id=0))
        nats.backward()
        return {"loss": nats.detach()} | {n: p.grad for n, p in tuned.named_parameters() if p.grad is not None}

    plain, packed = gradients(False), gradients(True)
    assert plain.keys() == packed.keys()
    for name, value in plain.items():
        error = float((packed[name] - value).norm() / value.norm())
        assert error < (1e-5 if dtype == torch.float32 else 3e-2), name


def test_what_is_laid_out_for_answering_has_no_gradient_and_says_so(tiny_llama_folder: Path) -> None:
    model: nn.Module = load_model(tiny_llama_folder, dtype=torch.float32)
    model.requires_grad_(False)
    assert prepack(model, is_trained=True) > 0
    compute_densely(model)
    x = torch.randn(1, 3, model.config.hidden_size, requires_grad=True)  # type: ignore[union-attr,arg-type]
    model.model.layers[0].mlp(x).sum().backward()  # type: ignore[union-attr,index,operator]
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


def test_a_run_learns_the_same_and_goes_on_to_the_same_bytes(
    tiny_llama_folder: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = train(small_config(tiny_llama_folder, prepared, tmp_path / "plain", train__prepack=False, **OFTEN))
    whole = train(small_config(tiny_llama_folder, prepared, tmp_path / "whole", train__prepack=True, **OFTEN))
    cut = train(small_config(tiny_llama_folder, prepared, tmp_path / "cut", train__prepack=True, **OFTEN))
    runs = [result.run for result in (plain, whole, cut)]
    on = [json.loads(run.plan.read_bytes())["prepack"]["is_on"] for run in runs]
    assert on == [False, True, True]
    losses = [[values[1] for values in story(run) if isinstance(values[1], float)] for run in runs[:2]]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    # What was decided when the run began is kept to, whatever this machine would decide now.
    shutil.rmtree(checkpoints.newest_checkpoint(unfinished(runs[2])).folder)  # type: ignore[union-attr]
    monkeypatch.setattr(choice, "pays", lambda dtype: False)
    resume(runs[2].root)
    assert folder_bytes(runs[2].adapter) == folder_bytes(runs[1].adapter)
    assert json.loads(runs[2].plan.read_bytes())["prepack"] == json.loads(runs[1].plan.read_bytes())["prepack"]


def test_a_model_that_cannot_be_laid_out_is_trained_plainly(
    tiny_llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = attach_lora(load_model(tiny_llama_folder, dtype=torch.float32), AdapterSection(rank=4), seed=0)
    monkeypatch.setattr(layout, "pays", lambda dtype: False)
    found = carried_out(Prepack(is_on=True, reason="更快"), model)
    assert not found.is_on
    assert not any(map(is_prepacked, model.modules()))


def test_the_forecast_counts_it(tiny_llama_folder: Path, prepared: Path, tmp_path: Path) -> None:
    config = small_config(tiny_llama_folder, prepared, tmp_path / "run", train__prepack=True, train__memory_check=True)
    on = forecast(config, tmp_path).outlook
    off = forecast(config.model_copy(update={"train": config.train.model_copy(update={"prepack": False})}), tmp_path)
    added = on.memory.tensors.prepacked
    assert added > 0
    assert off.outlook.memory.tensors.prepacked == 0
    assert on.memory.tensors.most - off.outlook.memory.tensors.most == added
    assert on.memory.tensors.rest == off.outlook.memory.tensors.rest
