"""The commands that a run which stopped tells: typed as they stand, they begin anew or go on."""

from __future__ import annotations

from hantune.paths import RunFolder, quoted


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
