"""The environment variables hantune honours, read here and nowhere else. None of them changes what a run computes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Environment:
    """What the surroundings ask for, as plain values."""

    no_color: bool
    dumb_terminal: bool
    home: Path
    offline: bool


def environment() -> Environment:
    """The present environment: ``NO_COLOR``, ``TERM``, ``CI``, ``HANTUNE_HOME``, ``HF_HUB_OFFLINE``."""
    return Environment(
        no_color=bool(os.environ.get("NO_COLOR")),
        dumb_terminal=os.environ.get("TERM") == "dumb" or bool(os.environ.get("CI")),
        home=Path(os.environ.get("HANTUNE_HOME") or Path.home() / ".cache" / "hantune"),
        offline=os.environ.get("HF_HUB_OFFLINE") == "1",
    )


def quiet_libraries() -> None:
    """Silence advice that transformers and tokenizers print for their own developers; call before they are imported."""
    for name, value in {
        "TRANSFORMERS_VERBOSITY": "error",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
        "TOKENIZERS_PARALLELISM": "true",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }.items():
        os.environ.setdefault(name, value)
