"""The arithmetic behind the serving benchmark (benchmarks/serve): no server is started here."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "serve" / "clients.py"


@pytest.fixture(scope="module")
def clients() -> Iterator[Any]:
    spec = importlib.util.spec_from_file_location("serve_clients", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["serve_clients"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["serve_clients"]


def test_figures_of_streams(clients: Any) -> None:
    """Tokens as the server counts them; of a stream that was cut off, the pieces that came."""
    whole = clients.Heard(asked_at=10.0, status=200, times=[11.0, 11.5, 12.0], ended_at=12.1, tokens=5)
    cut = clients.Heard(asked_at=10.5, status=200, times=[13.5, 14.0])
    refused = clients.Heard(asked_at=10.0, status=429)
    found = clients.figures([whole, cut, refused], 3)
    assert (found["complete"], found["tokens"], found["seconds"]) == (1, 7, 4.0)
    assert found["tokens_per_second"] == 1.8
    assert found["first_text_seconds"]["p50"] == 2.0
    assert found["gap_seconds"] == {"p50": 0.5, "p95": 0.5}


def test_percentiles(clients: Any) -> None:
    assert clients.percentile([], 95) is None
    assert clients.percentile([3.0], 95) == 3.0
    assert clients.percentile([float(n) for n in range(101)], 95) == 95.0


def test_what_an_event_tells(clients: Any) -> None:
    heard = clients.Heard(asked_at=0.0)
    for event in (
        {"choices": [{"delta": {"role": "assistant", "content": ""}}]}, {"choices": [{"delta": {"content": "好"}}]},
        {"choices": [], "usage": {"completion_tokens": 3}},
    ):  # fmt: skip
        clients._note(heard, event)
    assert (len(heard.times), heard.tokens) == (1, 3)
