"""The environment variables hantune honours, read here and nowhere else. None of them changes what a run computes."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Environment:
    """What the surroundings ask for, as plain values."""

    no_color: bool
    dumb_terminal: bool
    home: Path
    offline: bool
    hf_endpoint: str | None
    api_key: str | None


def environment() -> Environment:
    """The present one: ``NO_COLOR``, ``TERM``, ``CI``, ``HANTUNE_HOME``, ``HF_HUB_OFFLINE``, ``HF_ENDPOINT``,
    ``HANTUNE_API_KEY``."""
    return Environment(
        no_color=bool(os.environ.get("NO_COLOR")),
        dumb_terminal=os.environ.get("TERM") == "dumb" or bool(os.environ.get("CI")),
        home=Path(os.environ.get("HANTUNE_HOME") or Path.home() / ".cache" / "hantune"),
        offline=os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"),
        hf_endpoint=os.environ.get("HF_ENDPOINT", "").rstrip("/") or None,
        api_key=os.environ.get("HANTUNE_API_KEY") or None,
    )


def with_variables(variables: Mapping[str, str]) -> dict[str, str]:
    """The present variables and ``variables``, for a program that is to be started."""
    return os.environ | dict(variables)


def set_library_defaults() -> None:
    """What torch, transformers and tokenizers should do unless the user says otherwise; call before they are imported.

    Silence advice for their own developers. GNU OpenMP's threads spin only shortly before they sleep where other
    programs run: spinning threads take the core from the one they wait for (docs/decisions.md 11). Each shape of a
    matrix product costs oneDNN half a MiB for its kernel: as many are kept as a step of training needs (decision 23).
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "2000" if others_are_running() else "20000")
    for name, value in {
        "TRANSFORMERS_VERBOSITY": "error",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
        "TOKENIZERS_PARALLELISM": "true",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "256",
        "LRU_CACHE_CAPACITY": "64",
    }.items():
        os.environ.setdefault(name, value)


def type_in_utf8() -> None:
    """Let readline edit whole characters where the locale is C or POSIX, in which it would delete single bytes."""
    for name in ("LC_ALL", "LC_CTYPE", "LANG"):
        if os.environ.get(name):
            if os.environ[name] in ("C", "POSIX"):
                os.environ[name] = "C.UTF-8"
            return


def others_are_running(loadavg: Path = Path("/proc/loadavg")) -> bool:
    """Whether another program computes now, as far as Linux tells: at each of five moments, 2 ms apart."""
    for _ in range(5):
        try:
            running = loadavg.read_text(encoding="ascii").split()[3].partition("/")[0]
            if int(running) <= 1:
                return False
        except (OSError, ValueError, IndexError):
            return True
        time.sleep(0.002)
    return True
