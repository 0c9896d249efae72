"""Trackers get the figures and can never stop, or hold up, a run."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from accelerate import tracking

from hantune.log import console
from hantune.paths import RunFolder
from hantune.train import trackers as trackers_module
from hantune.train.trackers import Trackers

KINDS = {"tensorboard", "wandb", "swanlab", "trackio"}


class Fake:
    """A tracker that notes what it hears, or breaks or hangs where it is told to."""

    requires_logging_directory = False
    breaks_in = ""
    hangs_in = ""
    awake = threading.Event()
    heard: list[Any] = []  # noqa: RUF012

    def __init__(self, project: str, **settings: Any) -> None:
        self._hear("init", project, settings)

    def _hear(self, word: str, *values: Any) -> None:
        print("a tracker talks")
        if word == self.breaks_in:
            raise SystemExit("no account")
        if word == self.hangs_in:
            self.awake.wait(20)
        self.heard.append((word, *values))

    def start(self) -> None:
        self._hear("start")

    def store_init_configuration(self, settings: dict[str, Any]) -> None:
        self._hear("settings", settings)

    def log(self, values: dict[str, float], step: int) -> None:
        self._hear("log", values, step)

    def finish(self) -> None:
        self._hear("finish")


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Fake]]:
    """In the place of W&B; the threads that wait in it have ended before another test puts its own there."""
    kind = type("Fake", (Fake,), {"heard": [], "awake": threading.Event()})
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "wandb", kind)
    monkeypatch.setattr(console, "warnings", [])
    yield kind
    kind.awake.set()
    for thread in threading.enumerate():
        if thread.name.removeprefix("hantune-") in KINDS:
            thread.join(20)


def play(folder: Path, *names: str, steps: int = 2) -> None:
    run = RunFolder(folder / "名字")
    run.root.mkdir()
    with Trackers(names or ["wandb"], run, {"a": 1}) as trackers:
        for step in range(1, steps + 1):
            trackers.log({"loss": 1.0 / step}, step)


def test_every_figure_arrives(fake: type[Fake], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stdin, stdout = sys.stdin, sys.stdout
    play(tmp_path)
    assert [item[0] for item in fake.heard] == ["init", "start", "settings", "log", "log", "finish"]
    assert fake.heard[0][1:] == ("hantune", {"name": "名字", "dir": str(tmp_path / "名字" / "trackers")})
    assert fake.heard[4] == ("log", {"loss": 0.5}, 2)
    assert (sys.stdin, sys.stdout) == (stdin, stdout)
    written = capsys.readouterr()
    assert (written.out, "a tracker talks" in written.err) == ("", True), "stdout is the result's"


@pytest.mark.parametrize("word", ["init", "start", "settings", "log", "finish"])
def test_a_broken_tracker_is_dropped_with_one_warning(
    fake: type[Fake], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    monkeypatch.setattr(fake, "breaks_in", word)
    play(tmp_path)
    assert len(console.warnings) == 1
    assert "wandb 用不了, 不影响训练: SystemExit: no account" in console.warnings[0]


@pytest.mark.parametrize("word", ["init", "log", "finish"])
def test_a_tracker_that_hangs_is_not_waited_for(
    fake: type[Fake], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    monkeypatch.setattr(fake, "hangs_in", word)
    monkeypatch.setattr(trackers_module, "CLOSE_SECONDS", 0.1)
    monkeypatch.setattr(trackers_module, "PATIENCE_SECONDS", 0.05)
    start = time.thread_time()
    play(tmp_path, steps=1000)
    assert time.thread_time() - start < 1
    assert len(console.warnings) == 1
    assert "还没有发完" in console.warnings[0]


def test_a_tracker_that_is_too_slow_is_given_up(
    fake: type[Fake], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake, "hangs_in", "init")
    monkeypatch.setattr(trackers_module, "MOST_WAITING", 3)
    play(tmp_path, steps=9)
    assert len(console.warnings) == 1
    assert "发得太慢" in console.warnings[0]


def test_a_question_finds_nobody(fake: type[Fake], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """W&B and SwanLab ask for an account where somebody sits at the keyboard: a run would stand still."""
    asked: list[Any] = []
    monkeypatch.setattr(fake, "start", lambda self: asked.extend((sys.stdin.isatty(), sys.stdin.readline())))
    play(tmp_path)
    assert asked == [False, ""]


def test_one_fails_and_the_other_goes_on(fake: type[Fake], tmp_path: Path) -> None:
    play(tmp_path, "trackio", "wandb")  # the tests' environment has no trackio
    assert [item[0] for item in fake.heard][-1] == "finish"
    assert all("trackio" in warning for warning in console.warnings)


def test_accelerate_has_them_all() -> None:
    assert set(tracking.LOGGER_TYPE_TO_CLASS) >= KINDS


def test_figures_come_back_from_a_real_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra trackers is not installed")
    from accelerate import PartialState
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    PartialState(cpu=True)
    play(tmp_path, "tensorboard", steps=3)
    found = EventAccumulator(str(tmp_path / "名字" / "trackers" / "名字"))
    found.Reload()
    assert [(event.step, event.value) for event in found.Scalars("loss")] == [
        (1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3)),
    ]  # fmt: skip
    assert json.dumps(console.warnings) == "[]"
