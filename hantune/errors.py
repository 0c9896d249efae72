"""The errors of hantune, as users meet them.

    HantuneError
    ├── ConfigError      2   a run file, an override or a flag is wrong
    ├── RefusedError     3   a check before the work said no
    │   ├── ModelError   3   a model or adapter folder is not usable
    │   └── RunError     3   a run folder is in use, torn or foreign
    ├── NetworkError     4   a hub or mirror could not be reached
    ├── DataError        5   the conversations cannot be used
    ├── MachineError     6   disk, memory, driver, library
    ├── TrainError       1   the work itself failed
    └── Interrupted  130/143 Ctrl-C or SIGTERM, the checkpoint is saved

Every error carries a stable ``code`` (``area.what``), which has a page of that name in ``docs/troubleshooting/``,
the ``place`` (``file:line`` or ``section.key``), and a ``hint``: a command or an edit that mends it.
"""

from __future__ import annotations

NO_MEMORY = ("DefaultCPUAllocator", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""What a plain RuntimeError says when an allocation failed: torch's host allocator, CUDA and its libraries."""


class HantuneError(Exception):
    """What went wrong (Chinese), under which code, where, and what mends it."""

    exit_code = 1

    def __init__(self, code: str, message: str, *, place: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.place = place
        self.hint = hint

    def as_dict(self) -> dict[str, str | None]:
        """The ``error`` member of ``--json`` output."""
        return {"code": self.code, "message": self.message, "place": self.place, "hint": self.hint}

    def __str__(self) -> str:
        place = f" ({self.place})" if self.place else ""
        return f"[{self.code}] {self.message}{place}"


class ConfigError(HantuneError):
    """A run file, an override or a flag is wrong."""

    exit_code = 2


class RefusedError(HantuneError):
    """A check before the work said no."""

    exit_code = 3


class ModelError(RefusedError):
    """A model, tokenizer or adapter folder is not usable."""


class RunError(RefusedError):
    """A run folder is in use, has no good checkpoint, or belongs to something else."""


class NetworkError(HantuneError):
    """A hub or mirror could not be reached."""

    exit_code = 4


class DataError(HantuneError):
    """The conversations cannot be used."""

    exit_code = 5


class MachineError(HantuneError):
    """Disk, memory, driver or a library is missing or too small."""

    exit_code = 6


class TrainError(HantuneError):
    """The training itself went wrong (NaN, an adapter that does not move)."""


class Interrupted(HantuneError):
    """Ctrl-C (130) or SIGTERM (143); what was reached is saved."""

    def __init__(self, signal_number: int, message: str, *, hint: str | None = None) -> None:
        super().__init__("run.interrupted", message, hint=hint)
        self.exit_code = 128 + signal_number


def is_out_of_memory(error: BaseException) -> bool:
    """Whether it says that memory, of the machine or of a card, could not be had; torch has several ways to say so."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in NO_MEMORY)
