"""A checkpoint is whole or passed over (reliability C4, C5, C9)."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hantune.errors import MachineError, RunError
from hantune.paths import RunFolder, json_bytes
from hantune.train import checkpoint as checkpoints

PARTS = {"weights": {"w": torch.arange(4.0)}, "optimizer": {"w|exp_avg": torch.ones(4)}, "rng": {"cpu": torch.ones(2)}}


def save(run: RunFolder, step: int, keep: int = 3) -> Path:
    snapshot = checkpoints.Snapshot(step=step, parts=PARTS, state={"note": step})
    return checkpoints.save_checkpoint(run, snapshot, keep=keep)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path)


def test_what_is_saved_comes_back(run: RunFolder) -> None:
    save(run, 7)
    found = checkpoints.newest_checkpoint(run)
    assert found is not None
    assert (found.step, found.state["note"]) == (7, 7)
    assert torch.equal(found.tensors("weights")["w"], PARTS["weights"]["w"])
    assert (run.checkpoints / "last").read_text(encoding="utf-8") == "step-000007\n"


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def add_foreign(path: Path) -> None:
    (path.parent / "foreign").write_bytes(b"x")


@pytest.mark.parametrize("damage", [truncate, flip, Path.unlink, add_foreign, lambda path: path.write_bytes(b"")])
@pytest.mark.parametrize(
    "name", ["weights.safetensors", "optimizer.safetensors", "rng.safetensors", "state.json", "MANIFEST.json"]
)
def test_any_damage_falls_back_to_the_one_before(run: RunFolder, name: str, damage: Callable[[Path], Any]) -> None:
    save(run, 1)
    damage(save(run, 2) / name)
    found = checkpoints.newest_checkpoint(run)
    assert found is not None
    assert found.step == 1


def test_nothing_good_is_none(run: RunFolder) -> None:
    assert checkpoints.newest_checkpoint(run) is None
    flip(save(run, 1) / "state.json")
    assert checkpoints.newest_checkpoint(run) is None


def test_old_ones_go_and_the_best_stays(run: RunFolder) -> None:
    save(run, 1)
    checkpoints.mark_best(run, 1)
    for step in (2, 3, 4, 5):
        save(run, step, keep=2)
    names = sorted(path.name for path in run.checkpoints.iterdir() if path.is_dir())
    assert names == ["step-000001", "step-000004", "step-000005"]
    best = checkpoints.best_checkpoint(run)
    assert best is not None
    assert best.step == 1


def test_what_was_the_best_goes_with_the_others(run: RunFolder) -> None:
    for step in (1, 2):
        best = checkpoints.Snapshot(step=step, parts=PARTS, state={}, is_best=True)
        checkpoints.save_checkpoint(run, best, keep=1)
    assert sorted(path.name for path in run.checkpoints.iterdir()) == ["best", "last", "step-000002"]


@pytest.mark.parametrize(("key", "value"), [("format", checkpoints.FORMAT + 1), ("step", 2)])
def test_another_format_or_step_is_passed_over(run: RunFolder, key: str, value: int) -> None:
    path = save(run, 1) / "MANIFEST.json"
    path.write_bytes(json_bytes(json.loads(path.read_bytes()) | {key: value}))
    assert checkpoints.newest_checkpoint(run) is None


def test_the_newest_has_the_highest_number_however_long_it_is(run: RunFolder) -> None:
    for step in (999_999, 1_000_000):
        save(run, step, keep=1)
    found = checkpoints.newest_checkpoint(run)
    assert found is not None
    assert found.step == 1_000_000


def test_a_full_disk_leaves_the_last_good_one(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    save(run, 1)

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(MachineError) as caught:
        save(run, 2)
    assert caught.value.code == "machine.disk-full"
    assert sorted(path.name for path in run.checkpoints.iterdir()) == ["last", "step-000001"]


def test_leftovers_of_a_killed_save_are_swept(run: RunFolder) -> None:
    save(run, 1)
    (run.checkpoints / ".tmp-step-000002-99").mkdir()
    checkpoints.sweep_unfinished(run)
    assert sorted(path.name for path in run.checkpoints.iterdir()) == ["last", "step-000001"]


def test_optimizer_round_trip() -> None:
    model = nn.Linear(3, 2)
    parameters = dict(model.named_parameters())
    optimizer = torch.optim.AdamW(parameters.values())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    state = checkpoints.optimizer_state(optimizer, {id(p): name for name, p in parameters.items()})
    fresh = torch.optim.AdamW(parameters.values())
    checkpoints.restore_optimizer(fresh, parameters, *state)
    for parameter in parameters.values():
        assert all(torch.equal(optimizer.state[parameter][k], fresh.state[parameter][k]) for k in ("exp_avg", "step"))


def test_any_state_of_an_optimizer_comes_back_to_the_bit(run: RunFolder) -> None:
    """What 8-bit optimisers keep: packed moments, a table that all share, scales, a step that is a plain number."""
    parameters = dict(nn.Linear(3, 2).named_parameters())
    names = {id(parameter): name for name, parameter in parameters.items()}
    table = torch.linspace(-1, 1, 256)
    optimizer = torch.optim.SGD(parameters.values())
    for number, parameter in enumerate(parameters.values()):
        optimizer.state[parameter] |= {
            "step": 7 + number, "state1": torch.arange(6, dtype=torch.uint8), "qmap1": table, "absmax1": torch.rand(1),
            "mean": torch.rand(3).to(torch.bfloat16), "rate": 0.1 + number, "is_paged": True, "unorm": None,
        }  # fmt: skip
    tensors, values = checkpoints.optimizer_state(optimizer, names)
    snapshot = checkpoints.Snapshot(step=1, parts=PARTS | {"optimizer": tensors}, state={"optimizer": values})
    checkpoints.save_checkpoint(run, snapshot.apart(), keep=2)
    found = checkpoints.newest_checkpoint(run)
    assert found is not None
    fresh = torch.optim.SGD(parameters.values())
    checkpoints.restore_optimizer(fresh, parameters, found.tensors("optimizer"), found.state["optimizer"])
    for parameter in parameters.values():
        before, after = optimizer.state[parameter], fresh.state[parameter]
        assert before.keys() == after.keys()
        for slot, value in before.items():
            same = torch.equal(value, after[slot]) if isinstance(value, torch.Tensor) else value == after[slot]
            assert same, slot
            assert type(value) is type(after[slot])
    optimizer.state[parameters["bias"]]["history"] = [1, 2]
    with pytest.raises(TypeError, match="history"):
        checkpoints.optimizer_state(optimizer, names)


def test_a_snapshot_apart_is_not_reached_by_training() -> None:
    weight, counts = torch.zeros(3), {"seconds": [1.0]}
    live = checkpoints.Snapshot(step=1, parts={"weights": {"w": weight}}, state={"meter": counts})
    apart = live.apart()
    assert apart.num_bytes == live.num_bytes == 12
    weight += 1
    counts["seconds"][0] = 2.0
    assert apart.parts["weights"]["w"].tolist() == [0, 0, 0]
    assert apart.state["meter"] == {"seconds": [1.0]}


def test_a_part_more_is_kept_and_a_part_less_is_no_checkpoint(run: RunFolder) -> None:
    more = checkpoints.Snapshot(step=1, parts=PARTS | {"ema": {"w": torch.ones(1)}}, state={})
    checkpoints.save_checkpoint(run, more, keep=2)
    less = checkpoints.Snapshot(step=2, parts={"weights": PARTS["weights"]}, state={})
    checkpoints.save_checkpoint(run, less, keep=2)
    found = checkpoints.newest_checkpoint(run)
    assert found is not None
    assert found.step == 1
    assert found.tensors("ema")["w"].tolist() == [1]


@pytest.mark.parametrize(
    "tensors", [{"other": torch.ones(1)}, {"weight": torch.ones(1, 3), "bias": torch.ones(2)}, {"bias": torch.ones(2)}]
)
def test_weights_of_another_model_are_refused(tensors: dict[str, torch.Tensor]) -> None:
    parameters = dict(nn.Linear(3, 2).named_parameters())
    with pytest.raises(RunError) as caught:
        checkpoints.restore_weights(parameters, tensors)
    assert caught.value.code == "run.checkpoint-foreign"


def test_generators_round_trip() -> None:
    before = checkpoints.rng_tensors()
    first = torch.rand(3)
    checkpoints.restore_rng(before)
    assert torch.equal(first, torch.rand(3))
