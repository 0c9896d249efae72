"""Trackers get the figures and can never stop a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from accelerate import tracking

from hantune.log import console
from hantune.paths import RunFolder
from hantune.train.trackers import Trackers


class Fake:
    """A tracker that notes what it hears, or breaks where it is told to."""

    requires_logging_directory = False
    breaks_in = ""
    heard: list[Any] = []  # noqa: RUF012

    def __init__(self, run_name: str) -> None:
        self._hear("init", run_name)

    def _hear(self, word: str, *values: Any) -> None:
        if word == self.breaks_in:
            raise SystemExit("no account")
        self.heard.append((word, *values))

    def start(self) -> None:
        self._hear("start")

    def store_init_configuration(self, settings: dict[str, Any]) -> None:
        self._hear("settings", settings)

    def log(self, values: dict[str, float], step: int) -> None:
        self._hear("log", values, step)

    def finish(self) -> None:
        self._hear("finish")


def play(folder: Path) -> None:
    trackers = Trackers(["wandb"], RunFolder(folder / "名字"), {"a": 1})
    trackers.log({"loss": 1.0}, 1)
    trackers.log({"loss": 0.5}, 2)
    trackers.close()


def test_every_figure_arrives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "wandb", Fake)
    monkeypatch.setattr(Fake, "heard", [])
    play(tmp_path)
    assert [item[0] for item in Fake.heard] == ["init", "start", "settings", "log", "log", "finish"]
    assert Fake.heard[4] == ("log", {"loss": 0.5}, 2)


@pytest.mark.parametrize("word", ["init", "start", "settings", "log", "finish"])
def test_a_broken_tracker_is_dropped_with_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "wandb", Fake)
    monkeypatch.setattr(Fake, "breaks_in", word)
    monkeypatch.setattr(console, "warnings", [])
    play(tmp_path)
    assert len(console.warnings) == 1
    assert "wandb" in console.warnings[0]


def test_a_tracker_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "warnings", [])
    Trackers(["no-such"], RunFolder(tmp_path), {}).close()
    assert len(console.warnings) == 1
