"""The accelerate object: what a run without a card gets, and fp16's loss scaler across a resume."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hantune.paths import RunFolder
from hantune.train.checkpoint import newest_checkpoint
from hantune.train.parallel import make_accelerator
from hantune.train.precision import precision_of
from tests.train import test_loop

CPU = torch.device("cpu")


def test_a_float32_run_scales_nothing() -> None:
    accelerator = make_accelerator(CPU, precision_of("float32", "", is_adapter=True))
    assert accelerator.scaler is None
    assert accelerator.mixed_precision == "no"


def test_the_state_of_the_scaler_survives_json() -> None:
    def scaler() -> torch.amp.GradScaler:
        return torch.amp.GradScaler("cpu", init_scale=2.0**12, growth_interval=3)

    def run(which: torch.amp.GradScaler, gradients: list[float]) -> list[float]:
        weight = nn.Parameter(torch.zeros(1))
        optimizer = torch.optim.SGD([weight], lr=1.0)
        scales = []
        for gradient in gradients:
            which.scale((weight * gradient).sum()).backward()  # type: ignore[no-untyped-call]
            which.step(optimizer)
            which.update()
            optimizer.zero_grad()
            scales.append(which.get_scale())
        return scales

    gradients = [*[1.0] * 4, float("inf"), *[1.0] * 5, float("inf"), 1.0]
    whole = run(scaler(), gradients)
    assert len(set(whole)) > 1
    for cut in (2, 4, 5, 8):
        first, second = scaler(), scaler()
        head = run(first, gradients[:cut])
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        assert head + run(second, gradients[cut:]) == whole


def test_a_run_with_a_scaler_resumes_bit_for_bit(
    tmp_path: Path, tiny_llama: Callable[..., Any], sp_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a card does in fp16, on a CPU, with a scale that moves within a few steps."""

    def with_scaler(*given: Any) -> Any:
        accelerator = make_accelerator(*given)
        accelerator.native_amp, accelerator.state._mixed_precision = True, "fp16"
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**15, growth_interval=2)
        return accelerator

    monkeypatch.setattr(test_loop, "make_accelerator", with_scaler)

    def fresh(folder: Path) -> tuple[Any, Any]:
        model = tiny_llama(sp_tokenizer)
        loop, _ = test_loop.make_loop(folder, model, epochs=2, save_every_steps=5, keep_checkpoints=9)
        return model, loop

    whole, loop = fresh(tmp_path)
    loop.train()
    scales = [
        json.loads((tmp_path / "checkpoints" / f"step-{step:06d}" / "state.json").read_bytes())["scaler"]["scale"]
        for step in (5, 10)
    ]
    assert scales[0] != scales[1], "the scale is part of the state that moves"
    for folder in sorted((tmp_path / "checkpoints").glob("step-*"))[1:]:
        shutil.rmtree(folder)
    resumed, loop = fresh(tmp_path)
    checkpoint = newest_checkpoint(RunFolder(tmp_path))
    assert checkpoint is not None
    loop.restore(checkpoint)
    assert loop.step == 5
    loop.train()
    again = test_loop.weights(resumed)
    assert all(torch.equal(weight, again[name]) for name, weight in test_loop.weights(whole).items())
