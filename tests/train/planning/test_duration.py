"""How long a run takes: from trials that leave no trace, else from how fast the machine multiplies."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from hantune.paths import RunFolder
from hantune.train.parallel import make_accelerator
from hantune.train.plan import Plan
from hantune.train.planning import duration
from hantune.train.planning.duration import Speed, calibrate, expected_duration, line
from hantune.train.planning.flops import Volume
from hantune.train.planning.outlook import look_ahead
from hantune.train.planning.target import here, parse_devices
from hantune.train.ready import get_ready
from hantune.train.setup import open_material
from hantune.train.step import DoesNotFit
from tests.runs import small_config

CPU = torch.device("cpu")


@pytest.fixture
def opened(tiny_llama_folder: Path, prepared: Path, tmp_path: Path) -> Any:
    config = small_config(tiny_llama_folder, prepared, tmp_path / "no", train__max_steps=6)
    return config, open_material(config, RunFolder(tmp_path))


def test_a_line_through_the_small_and_the_large() -> None:
    assert line([10, 2], [6, 2]) == (1.0, 0.5)
    assert line([10, 10, 10, 2, 2], [6, 60, 7, 9, 2]) == (1.0, 0.5), "a disturbed trial counts for nothing"
    assert line([10, 10.5], [5, 7]) == (0.0, pytest.approx(7 / 10.5)), "of one size: nothing tells the two apart"
    assert line([10, 2], [5, 9])[1] == 0, "the smaller one was slower"
    start, slope = line([10, 8], [10, 1])
    assert (start, slope) == (0.0, 1.0), "no batch takes less than nothing"


def test_a_run_is_the_sum_of_its_parts() -> None:
    plan = Plan(
        num_samples=8, num_val=2, samples_per_step=2, batch_tokens=None, steps_per_epoch=4, total_steps=4,
        eval_every=2, save_every=4, layout="sorted", layout_reason="", run_samples=8, deals=(), by_length=True,
    )  # fmt: skip
    volume = Volume(flop=100.0, tokens=10.0, batches=4.0, evaluation_flop=10.0, evaluation_batches=1, sizes=())
    speed = Speed(batch=1.0, flop=0.1, forward_batch=0.5, forward_flop=0.05, update=0.25)
    found = speed.run(volume, plan, int(3 * duration.SAVED_BYTES_PER_SECOND))
    assert found.training == 4 * 1.0 + 100 * 0.1 + 4 * 0.25
    assert found.evaluation == 3 * (0.5 + 10 * 0.05), "at the start, in the middle, at the end"
    assert found.saving == pytest.approx(3.0)
    assert found.total == found.as_dict()["total"] == found.training + found.evaluation + found.saving


def test_trials_measure_and_leave_no_trace(opened: Any) -> None:
    config, material = opened
    ready = get_ready(config, material)
    accelerator = make_accelerator(CPU, ready.precision)
    before = {name: tensor.clone() for name, tensor in ready.model.state_dict().items()}
    state = torch.get_rng_state()
    found = calibrate(config, material, ready.plan, ready.model, accelerator, most_share=math.inf)
    assert found is not None
    assert found.is_measured
    assert min(found.training, found.evaluation, found.saving) > 0
    assert torch.equal(torch.get_rng_state(), state)
    after = {name: tensor for name, tensor in ready.model.state_dict().items() if not tensor.is_meta}
    assert all(torch.equal(tensor, before[name]) for name, tensor in after.items())
    assert all(parameter.grad is None for parameter in ready.model.parameters())
    assert calibrate(config, material, ready.plan, ready.model, accelerator, most_share=0.02) is None, "too short a run"


def test_what_does_not_fit_is_not_timed(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    config, material = opened
    ready = get_ready(config, material)

    def fail(model: Any, accelerator: Any, section: Any, batches: Any) -> None:
        raise DoesNotFit(batches[0])

    monkeypatch.setattr(duration, "try_batches", fail)
    accelerator = make_accelerator(CPU, ready.precision)
    assert calibrate(config, material, ready.plan, ready.model, accelerator, most_share=math.inf) is None


def test_without_trials_the_matrix_rate_tells(opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    config, material = opened
    monkeypatch.setattr(duration, "matmul_rate", lambda *_, **__: 1e9)
    outlook = look_ahead(config, material, here(CPU))
    found = expected_duration(outlook)
    assert found is not None
    assert not found.is_measured
    assert found.training == pytest.approx(outlook.volume.flop / 1e9 / duration.FLOOR_SHARE)
    assert expected_duration(look_ahead(config, material, parse_devices("1GB"))) is None
