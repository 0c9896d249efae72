"""Sending figures to TensorBoard, W&B, SwanLab or Trackio through accelerate. None of them can stop a run (trap G6)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hantune.log import console
from hantune.paths import RunFolder


class Trackers:
    """The trackers that could be started; one that fails later is dropped with a warning."""

    def __init__(self, names: Sequence[str], run: RunFolder, settings: dict[str, Any]) -> None:
        self._live: dict[str, Any] = {}
        for name in names:
            self._try(name, lambda name=name: self._start(name, run, settings))

    def _start(self, name: str, run: RunFolder, settings: dict[str, Any]) -> None:
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        kind = LOGGER_TYPE_TO_CLASS[name]
        place = {"logging_dir": str(run.root / "trackers")} if kind.requires_logging_directory else {}
        tracker = kind(run.root.name, **place)
        tracker.start()
        tracker.store_init_configuration(settings)
        self._live[name] = tracker

    def log(self, values: dict[str, float], step: int) -> None:
        """One step's figures to every tracker."""
        for name, tracker in list(self._live.items()):
            self._try(name, lambda tracker=tracker: tracker.log(values, step=step))

    def close(self) -> None:
        """Finish them all."""
        for name, tracker in list(self._live.items()):
            self._try(name, tracker.finish)

    def _try(self, name: str, action: Any) -> None:
        try:
            action()
        except (Exception, SystemExit) as error:  # a tracker may fail in any way, and none may stop the run
            self._live.pop(name, None)
            console.warn(f"记录工具 {name} 用不了, 不影响训练: {type(error).__name__}: {error}")
