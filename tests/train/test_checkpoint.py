"""A checkpoint is whole or passed over (reliability C4, C5, C9)."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hantune.errors import MachineError, RunError
from hantune.paths import RunFolder
from hantune.train import checkpoint as checkpoints

PARTS = {"weights": {"w": torch.arange(4.0)}, "optimizer": {"w|exp_avg": torch.ones(4)}, "rng": {"cpu": torch.ones(2)}}


def save(run: RunFolder, step: int, keep: int = 3) -> Path:
    return checkpoints.save_checkpoint(run, step, PARTS, {"note": step}, keep=keep)


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
    tensors = checkpoints.optimizer_tensors(optimizer, {id(p): name for name, p in parameters.items()})
    fresh = torch.optim.AdamW(parameters.values())
    checkpoints.restore_optimizer(fresh, parameters, tensors)
    for parameter in parameters.values():
        assert all(torch.equal(optimizer.state[parameter][k], fresh.state[parameter][k]) for k in ("exp_avg", "step"))


def test_weights_of_another_model_are_refused() -> None:
    parameters = dict(nn.Linear(3, 2).named_parameters())
    with pytest.raises(RunError) as caught:
        checkpoints.restore_weights(parameters, {"other": torch.ones(1)})
    assert caught.value.code == "run.checkpoint-foreign"


def test_generators_round_trip() -> None:
    before = checkpoints.rng_tensors()
    first = torch.rand(3)
    checkpoints.restore_rng(before)
    assert torch.equal(first, torch.rand(3))
