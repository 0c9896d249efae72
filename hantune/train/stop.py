"""Ctrl-C and SIGTERM end a run at the next step boundary, after a checkpoint."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from hantune.errors import Interrupted
from hantune.train.remedy import Remedy


class StopRequest:
    """While active, the first signal is only noted; a second one interrupts at once."""

    def __init__(self, remedy: Remedy) -> None:
        self._remedy = remedy
        self.signal: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            raise Interrupted(number, "立即停下了, 上一个检查点还在", hint=self._remedy.go_on())
        self.signal = number
