"""Checkpoints written while the run goes on: a copy of the state is taken, and a thread puts it on disk.

At most one is being written: a save that comes before it is done waits. What goes wrong in the thread comes up at the
next step boundary, as if it had been written there. Where the host's memory has no room for a copy, the run waits.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType

from hantune.errors import HantuneError, Interrupted
from hantune.log import console
from hantune.models.memory import free_host_memory, process_memory
from hantune.paths import RunFolder
from hantune.train.checkpoint import Snapshot, save_checkpoint

SPARE_BYTES = 512 << 20
"""What a copy leaves free beyond what the steps are known to take."""


class Saver:
    """Puts snapshots on disk, in order.

    ``tell`` hears of each one in the thread of the run, at a step boundary, once it is on disk.
    """

    def __init__(self, run: RunFolder, *, keep: int, tell: Callable[[int], None]) -> None:
        self._run = run
        self._keep = keep
        self._tell = tell
        self._writer: _Writer | None = None

    def save(self, snapshot: Snapshot, *, wait: bool = False) -> None:
        """Begin to write; ``wait``: and end.

        Raises: MachineError ``machine.disk-full``, of this save (if it waits) or of the one before.
        """
        self.finish()
        is_behind = not wait and has_room_for(snapshot.num_bytes)
        self._writer = _Writer(self._run, snapshot.apart() if is_behind else snapshot, self._keep)
        if is_behind:
            self._writer.start()
        else:
            self._writer.run()
            self.finish()

    def look(self) -> None:
        """Tell of what has been written meanwhile. Raises: what went wrong there."""
        if self._writer is not None and not self._writer.is_alive():
            self.finish()

    def finish(self) -> None:
        """Wait for what is being written. Raises: what went wrong there."""
        writer, self._writer = self._writer, None
        if writer is None:
            return
        if writer.ident is not None:
            writer.join()
        if writer.error is not None:
            raise writer.error
        self._tell(writer.step)

    def __enter__(self) -> Saver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """What is being written comes to its end, except where the user wants out at once."""
        if kind is not None and issubclass(kind, Interrupted):
            return
        try:
            self.finish()
        except HantuneError as problem:
            if kind is None:
                raise
            console.warn(str(problem))


class _Writer(threading.Thread):
    """One snapshot on its way to the disk. A process that ends at once does not wait for it: it is then not there."""

    def __init__(self, run: RunFolder, snapshot: Snapshot, keep: int) -> None:
        super().__init__(name="hantune-save", daemon=True)
        self.step = snapshot.step
        self.error: BaseException | None = None
        self._folder, self._snapshot, self._keep = run, snapshot, keep

    def run(self) -> None:
        try:
            save_checkpoint(self._folder, self._snapshot, keep=self._keep)
        except BaseException as error:  # raised again in the run's own thread
            self.error = error


def has_room_for(num_bytes: int) -> bool:
    """Whether the host's memory holds so many bytes more while steps take again what they took at their peak."""
    free = free_host_memory()
    now, peak = process_memory()
    if free is None:
        return num_bytes <= SPARE_BYTES
    return num_bytes + SPARE_BYTES + max(0, (peak or 0) - (now or 0)) <= free
