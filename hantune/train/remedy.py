"""The commands that a run which stopped tells: typed as they stand, they begin anew or go on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from hantune.errors import MachineError
from hantune.paths import RunFolder, disk_errors, quoted


class Remedy:
    """The commands of one run, with ``changes`` as they are typed: ``train.learning_rate=1e-4``."""

    def __init__(self, run: RunFolder) -> None:
        self._run = run

    def anew(self, *changes: str) -> str:
        """Train again from the start in a folder of its own: for what makes it another run."""
        return " ".join(["hantune train", quoted(self._run.config), *changes])

    def go_on(self, *changes: str) -> str:
        """Go on from the newest checkpoint: for what may change."""
        return " ".join(["hantune resume", quoted(self._run.root), *changes])

    @contextlib.contextmanager
    def for_full_disks(self) -> Iterator[None]:
        """Inside, a full disk says how to go on: the command that began the run would begin another."""
        try:
            with disk_errors(self._run.root):
                yield
        except MachineError as error:
            if error.code == "machine.disk-full":
                error.hint = f"腾出空间, 再 {self.go_on()}"
            raise
