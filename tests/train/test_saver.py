"""A save that goes on behind the run: in order, one at a time, whole or not there, and what fails comes up."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hantune.errors import Interrupted, MachineError, TrainError
from hantune.log import console
from hantune.paths import RunFolder
from hantune.train import checkpoint as checkpoints
from hantune.train import saver as savers
from hantune.train.checkpoint import Snapshot
from hantune.train.saver import SPARE_BYTES, Saver, has_room_for


class Disk:
    """``save_file`` that waits at a gate, or fails; ``order``: what was written by which thread."""

    def __init__(self, write: Callable[..., None]) -> None:
        self.gate = threading.Event()
        self.fails = False
        self.threads: list[str] = []
        self._write = write

    def __call__(self, tensors: Any, path: Path) -> None:
        assert self.gate.wait(20)
        self.threads.append(threading.current_thread().name)
        if self.fails:
            raise OSError(errno.ENOSPC, "No space left on device")
        self._write(tensors, path)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk(checkpoints.save_file)
    monkeypatch.setattr(checkpoints, "save_file", disk)
    return disk


@pytest.fixture
def weight() -> torch.Tensor:
    return torch.zeros(4)


@pytest.fixture
def take(weight: torch.Tensor) -> Callable[[int], Snapshot]:
    def make(step: int) -> Snapshot:
        parts = {"weights": {"w": weight}, "optimizer": {}, "rng": {"cpu": torch.ones(2)}}
        return Snapshot(step=step, parts=parts, state={})

    return make


@pytest.fixture
def told() -> list[int]:
    return []


@pytest.fixture
def saver(tmp_path: Path, told: list[int]) -> Saver:
    return Saver(RunFolder(tmp_path), keep=3, tell=told.append)


def newest(folder: Path) -> int:
    found = checkpoints.newest_checkpoint(RunFolder(folder))
    return -1 if found is None else found.step


def test_the_run_goes_on_while_it_is_written(
    tmp_path: Path, disk: Disk, saver: Saver, take: Any, weight: torch.Tensor, told: list[int]
) -> None:
    saver.save(take(1))
    weight += 1  # the next step
    saver.look()
    assert (told, newest(tmp_path)) == ([], -1)
    disk.gate.set()
    saver.finish()
    assert (told, newest(tmp_path)) == ([1], 1)
    found = checkpoints.newest_checkpoint(RunFolder(tmp_path))
    assert found is not None
    assert found.tensors("weights")["w"].tolist() == [0, 0, 0, 0], "as it was when it was saved"
    assert set(disk.threads) == {"hantune-save"}
    saver.look()
    saver.finish()
    assert told == [1], "told once"


def test_a_save_waits_for_the_one_before(disk: Disk, saver: Saver, take: Any, told: list[int]) -> None:
    saver.save(take(1))
    threading.Timer(0.05, disk.gate.set).start()
    saver.save(take(2))
    assert told == [1]
    saver.finish()
    assert told == [1, 2]


def test_a_waiting_save_is_on_disk_at_once_and_copies_nothing(
    tmp_path: Path, disk: Disk, saver: Saver, take: Any, told: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk.gate.set()
    monkeypatch.delattr(Snapshot, "apart")
    saver.save(take(1), wait=True)
    assert (told, newest(tmp_path), set(disk.threads)) == ([1], 1, {"MainThread"})


def test_without_room_for_a_copy_the_run_waits(
    disk: Disk, saver: Saver, take: Any, told: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk.gate.set()
    monkeypatch.setattr(savers, "free_host_memory", lambda: SPARE_BYTES)
    saver.save(take(1))
    assert (told, set(disk.threads)) == ([1], {"MainThread"})


def test_room_is_what_is_free_less_what_steps_take_again(monkeypatch: pytest.MonkeyPatch) -> None:
    gib = 1 << 30
    monkeypatch.setattr(savers, "process_memory", lambda: (2 * gib, 5 * gib))
    monkeypatch.setattr(savers, "free_host_memory", lambda: 8 * gib)
    assert has_room_for(8 * gib - 3 * gib - SPARE_BYTES)
    assert not has_room_for(8 * gib - 3 * gib - SPARE_BYTES + 1)
    monkeypatch.setattr(savers, "free_host_memory", lambda: None)
    assert has_room_for(SPARE_BYTES)
    assert not has_room_for(SPARE_BYTES + 1)


@pytest.mark.parametrize("when", ["look", "finish", "save", "exit"])
def test_a_full_disk_comes_up_at_the_next_step_and_costs_nothing_older(
    tmp_path: Path, disk: Disk, saver: Saver, take: Any, told: list[int], when: str
) -> None:
    disk.gate.set()
    saver.save(take(1), wait=True)
    disk.fails = True
    saver.save(take(2))
    writer = saver._writer
    assert writer is not None
    writer.join()
    action: Callable[[], Any] = {
        "look": saver.look,
        "finish": saver.finish,
        "save": lambda: saver.save(take(3)),
        "exit": lambda: saver.__exit__(None, None, None),
    }[when]
    with pytest.raises(MachineError) as caught:
        action()
    assert caught.value.code == "machine.disk-full"
    assert (told, newest(tmp_path)) == ([1], 1)
    assert not list((tmp_path / "checkpoints").glob(".tmp-*"))
    disk.fails = False
    saver.save(take(4), wait=True)
    assert newest(tmp_path) == 4


def ending(saver: Saver, snapshot: Snapshot, error: Exception) -> Exception:
    """What comes out where a run is stopped by ``error`` just after a save began."""
    try:
        with saver:
            saver.save(snapshot)
            raise error
    except Exception as found:
        return found


def test_what_stops_a_run_lets_a_save_end_and_hides_nothing(
    tmp_path: Path, disk: Disk, saver: Saver, take: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "warnings", [])
    threading.Timer(0.05, disk.gate.set).start()
    stops = TrainError("train.not-finite", "")
    assert ending(saver, take(1), stops) is stops
    assert newest(tmp_path) == 1
    disk.fails = True
    assert ending(saver, take(2), stops) is stops
    assert "machine.disk-full" in console.warnings[0]


def test_a_second_signal_does_not_wait(disk: Disk, saver: Saver, take: Any) -> None:
    out_at_once = Interrupted(2, "立即")
    assert ending(saver, take(1), out_at_once) is out_at_once
    assert not disk.threads, "still at the gate"
    disk.gate.set()
    saver.finish()
