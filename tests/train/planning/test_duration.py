"""How long a run takes: from trials that leave no trace, else from how fast the machine multiplies."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from hantune.paths import RunFolder
from hantune.train.feed import Feed
from hantune.train.floor import Work
from hantune.train.parallel import make_accelerator
from hantune.train.plan import Plan
from hantune.train.planning import duration
from hantune.train.planning.duration import Speed, calibrate, expected_duration, place_at, spread
from hantune.train.planning.flops import Volume, flop_of, volume_of
from hantune.train.planning.outlook import look_ahead
from hantune.train.planning.target import here, parse_devices
from hantune.train.ready import get_ready
from hantune.train.setup import open_material
from hantune.train.step import DoesNotFit
from hantune.train.trial import Cost
from tests.runs import small_config

CPU = torch.device("cpu")
WORK = Work(token=3.0, label=1.0, pair=0.5, shape=(8, 8))


@pytest.fixture
def opened(tiny_llama_folder: Path, prepared: Path, tmp_path: Path) -> Any:
    config = small_config(tiny_llama_folder, prepared, tmp_path / "no", train__max_steps=6)
    return config, open_material(config, RunFolder(tmp_path))


def test_trials_are_spread_over_the_work() -> None:
    sizes = [(1.0, (number,)) for number in range(20)] + [(20.0, (20,))]
    assert place_at(0.1, sizes) == 3
    assert spread(sizes, 1) == [(9,), (20,)], "half of the work is in the largest one"
    assert spread(sizes, 2) == [(9,), (10,), (19,), (20,)], "different ones, where there are any"
    assert spread(sizes[:1], 2) == [(0,)] * 2 * duration.PARTS
    assert spread([], 2) == []


def test_each_part_of_the_work_counts_alike_and_a_disturbed_trial_for_nothing(
    opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shapes are met as in training and in evaluation: the run's own, different ones, those of evaluation padded."""
    config, material = opened
    ready = get_ready(config, material)
    tried, forward = [], []

    def seconds(model: Any, accelerator: Any, section: Any, batches: Any) -> list[Cost]:
        tried.extend(batches)
        rates = [1000.0, 1.0, 70.0, 80.0, 3.0]  # the warm-up, and a disturbed one in each part
        return [
            Cost(positions=1, num_tokens=1, seconds=rate * flop_of(batch, WORK), peak_bytes=None, grown_bytes=None)
            for rate, batch in zip(rates, batches, strict=True)
        ]

    def forward_seconds(model: Any, accelerator: Any, batch: Any) -> float:
        forward.append(batch)
        return flop_of(batch, WORK) * len(forward)

    monkeypatch.setattr(duration, "try_batches", seconds)
    monkeypatch.setattr(duration, "_forward_seconds", forward_seconds)
    monkeypatch.setattr(duration, "_update_seconds", lambda *_: 0.5)
    monkeypatch.setattr(duration, "work_or_guess", lambda _: WORK)
    plan = ready.plan
    found = calibrate(config, material, plan, ready.model, make_accelerator(CPU, ready.precision), most_share=math.inf)
    volume = volume_of(Feed(material.train, plan, config.train, pad_id=0), plan, material, WORK)
    assert found is not None
    assert found.training == pytest.approx((1 + 3) / 2 * volume.flop + 0.5 * plan.total_steps)
    assert found.evaluation == pytest.approx((1 + 2) / 2 * volume.evaluation_flop * (1 + plan.still_to_come(0)["eval"]))
    own = {frozenset(cut) for _, cut in volume.sizes}
    assert {frozenset(batch.indices) for batch in tried} <= own
    assert len({frozenset(batch.indices) for batch in tried[1:]}) == min(len(own), len(tried) - 1)
    held_out = {frozenset(cut) for _, cut in volume.evaluation_sizes}
    assert {frozenset(batch.indices) for batch in forward} <= held_out
    assert all(batch.documents is None for batch in forward), "an evaluation pads"


def test_a_run_is_the_sum_of_its_parts() -> None:
    plan = Plan(
        num_samples=8, num_val=2, samples_per_step=2, batch_tokens=None, steps_per_epoch=4, total_steps=4,
        eval_every=2, save_every=4, layout="sorted", layout_reason="", run_samples=8, deals=(), by_length=True,
    )  # fmt: skip
    volume = Volume(
        flop=100.0, tokens=10.0, batches=4.0, evaluation_flop=10.0, evaluation_batches=1, sizes=(),
        evaluation_sizes=(),
    )  # fmt: skip
    speed = Speed(flop=0.1, forward_flop=0.05, update=0.25)
    found = speed.run(volume, plan, int(3 * duration.SAVED_BYTES_PER_SECOND))
    assert found.training == 100 * 0.1 + 4 * 0.25
    assert found.evaluation == 3 * (10 * 0.05), "at the start, in the middle, at the end"
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
