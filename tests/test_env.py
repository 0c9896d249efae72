"""The environment variables that hantune honours."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hantune.env import environment, others_are_running, set_library_defaults

NAMES = ("NO_COLOR", "TERM", "CI", "HANTUNE_HOME", "HF_HUB_OFFLINE", "HF_ENDPOINT", "HANTUNE_API_KEY")


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


def test_without_any_of_them_there_are_defaults() -> None:
    found = environment()
    assert (found.no_color, found.dumb_terminal, found.offline) == (False, False, False)


@pytest.mark.parametrize(
    ("name", "value", "field", "expected"),
    [
        ("NO_COLOR", "1", "no_color", True),
        ("NO_COLOR", "", "no_color", False),
        ("TERM", "dumb", "dumb_terminal", True),
        ("TERM", "xterm", "dumb_terminal", False),
        ("CI", "true", "dumb_terminal", True),
        ("HANTUNE_HOME", "盘/汉调", "home", Path("盘/汉调")),
        ("HF_HUB_OFFLINE", "1", "offline", True),
        ("HF_HUB_OFFLINE", "yes", "offline", True),
        ("HF_HUB_OFFLINE", "0", "offline", False),
        ("HF_ENDPOINT", "https://mirror.example/", "hf_endpoint", "https://mirror.example"),
        ("HF_ENDPOINT", "", "hf_endpoint", None),
        ("HANTUNE_API_KEY", "sk-x", "api_key", "sk-x"),
        ("HANTUNE_API_KEY", "", "api_key", None),
    ],
)
def test_each_is_read_when_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, field: str, expected: object
) -> None:
    monkeypatch.setenv(name, value)
    assert getattr(environment(), field) == expected


def test_libraries_are_quiet_unless_the_user_wants_them_loud(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "debug")
    monkeypatch.delenv("HF_HUB_DISABLE_TELEMETRY", raising=False)
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "7")
    monkeypatch.delenv("LRU_CACHE_CAPACITY", raising=False)
    set_library_defaults()
    assert (os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"], os.environ["LRU_CACHE_CAPACITY"]) == ("7", "64")
    assert os.environ["TRANSFORMERS_VERBOSITY"] == "debug"
    assert os.environ["HF_HUB_DISABLE_TELEMETRY"] == "1"
    monkeypatch.delenv("HF_HUB_DISABLE_TELEMETRY")


@pytest.mark.parametrize(
    ("text", "expected"), [("0.1 0.2 0.3 1/222 26338", False), ("0.1 0.2 0.3 4/222 9", True), ("", True)]
)
def test_others_are_counted_without_this_program(tmp_path: Path, text: str, expected: bool) -> None:
    (tmp_path / "loadavg").write_text(text, encoding="ascii")
    assert others_are_running(tmp_path / "loadavg") == expected
    assert others_are_running(tmp_path / "not-linux")
