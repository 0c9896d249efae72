"""Sending figures to TensorBoard, W&B, SwanLab or Trackio through accelerate. None of them can stop a run (trap G6).

Each works in a thread of its own, so that none is waited for: some look for a network for minutes, some ask for an
account. They read no keyboard, and what they print goes to stderr, as stdout is the result's.
"""

from __future__ import annotations

import contextlib
import os
import queue
import sys
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from hantune.log import console
from hantune.paths import RunFolder

PROJECT = "hantune"
MOST_WAITING = 10_000
"""Figures that wait for a tracker before it is given up."""
CLOSE_SECONDS = 30.0
"""How long the end of a run waits for what trackers still have to send."""
PATIENCE_SECONDS = 2.0
"""How long before it says what it waits for."""
FAILED_CLOSE_SECONDS = 5.0
"""The same where the run ends by an error or a signal."""

Settings = dict[str, float | int | str]


class Trackers:
    """The trackers that are at work; one that fails is dropped with a warning. Use it in a ``with``."""

    def __init__(self, names: Sequence[str], run: RunFolder, settings: Settings) -> None:
        self._live = [_Tracker(name, run, settings) for name in names]
        self._streams = contextlib.ExitStack()

    def __enter__(self) -> Trackers:
        if self._live:
            nothing = self._streams.enter_context(open(os.devnull, encoding="utf-8"))
            self._streams.callback(setattr, sys, "stdin", sys.stdin)
            self._streams.enter_context(contextlib.redirect_stdout(sys.stderr))
            sys.stdin = nothing
        for tracker in self._live:
            tracker.start()
        return self

    def log(self, values: dict[str, float], step: int) -> None:
        """One step's figures to every tracker."""
        for tracker in self._live:
            tracker.send((values, step))
        self._drop_failed()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish them all, and wait a little for those that are slow."""
        end = time.monotonic() + (CLOSE_SECONDS if kind is None else FAILED_CLOSE_SECONDS)
        with self._streams:
            for tracker in self._live:
                tracker.send(None)
            for tracker in self._live:
                tracker.join(PATIENCE_SECONDS)
                if tracker.is_alive():
                    console.say(f"等记录工具 {tracker.kind} 发完 (最多 {max(0, end - time.monotonic()):.0f} 秒)")
                    tracker.join(max(0, end - time.monotonic()))
                if tracker.is_alive():
                    tracker.failed("还没有发完, 不再等了")
            self._drop_failed()

    def _drop_failed(self) -> None:
        for tracker in [tracker for tracker in self._live if tracker.problem]:
            self._live.remove(tracker)
            console.warn(f"记录工具 {tracker.kind} 用不了, 不影响训练: {tracker.problem}")


class _Tracker(threading.Thread):
    """One tracker. ``problem``: why it cannot be used, once that is known."""

    def __init__(self, kind: str, run: RunFolder, settings: Settings) -> None:
        super().__init__(name=f"hantune-{kind}", daemon=True)
        self.kind = kind
        self.problem = ""
        self._run = run
        self._settings = settings
        self._waiting: queue.Queue[tuple[dict[str, float], int] | None] = queue.Queue(MOST_WAITING)

    def send(self, item: tuple[dict[str, float], int] | None) -> None:
        """Figures and their step; None ends it."""
        try:
            self._waiting.put_nowait(item)
        except queue.Full:
            self.failed("发得太慢")

    def failed(self, problem: str) -> None:
        """Give it up, unless that is done already."""
        self.problem = self.problem or problem

    def run(self) -> None:
        try:
            tracker = self._start()
            while not self.problem and (item := self._waiting.get()) is not None:
                tracker.log(item[0], step=item[1])
            tracker.finish()
        except (Exception, SystemExit) as error:  # a tracker may fail in any way, and none may stop the run
            self.failed(f"{type(error).__name__}: {error}")

    def _start(self) -> Any:
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        folder = self._run.root / "trackers"
        folder.mkdir(exist_ok=True)
        name, place = self._run.root.name, str(folder)
        project, more = {
            "tensorboard": (name, {"logging_dir": place}),
            "wandb": (PROJECT, {"name": name, "dir": place}),
            "swanlab": (PROJECT, {"experiment_name": name, "logdir": place}),
            "trackio": (PROJECT, {"name": name}),
        }[self.kind]
        tracker = LOGGER_TYPE_TO_CLASS[self.kind](project, **more)
        tracker.start()
        tracker.store_init_configuration(self._settings)
        return tracker
