"""Places in the house."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest

from hantune.serve.errors import ApiError
from hantune.serve.limits import LONGEST_WAIT, Places, retry_after
from tests.serve.conftest import KEY, ask


def test_places_are_given_back_whatever_happens() -> None:
    places = Places(3, per_key=2)
    with contextlib.ExitStack() as stack:
        stack.enter_context(places.place("a"))
        stack.enter_context(places.place("a"))
        with pytest.raises(ApiError) as caught, places.place("a", wait=7):
            pass
        assert (caught.value.status, caught.value.code) == (429, "too_many_requests")
        assert caught.value.headers["retry-after"] == "7"
        stack.enter_context(places.place("b"))
        with pytest.raises(ApiError, match="排满"), places.place("c"):
            pass
    with pytest.raises(KeyError), places.place("a"):
        raise KeyError
    assert not places.taken


def test_how_long_to_wait() -> None:
    assert retry_after(0, 8, 0.1) == 1
    assert retry_after(64, 8, 2.0) == 18
    assert retry_after(10**6, 1, 60.0) == LONGEST_WAIT


@pytest.mark.usefixtures("slow")
def test_a_key_cannot_take_all_places(own: Callable[..., Any]) -> None:
    import httpx2

    other = "sk-another-key-0123456789"
    live = own(keys=[KEY, other], per_key=1)
    headers = {"authorization": f"Bearer {KEY}"}
    with httpx2.Client(base_url=live.url, timeout=60) as client:
        body = ask(stream=True, max_tokens=100)
        with client.stream("POST", "/v1/chat/completions", json=body, headers=headers) as running:
            assert running.status_code == 200
            again = client.post("/v1/chat/completions", json=ask(), headers=headers)
            assert (again.status_code, again.json()["error"]["code"]) == (429, "too_many_requests")
            assert int(again.headers["retry-after"]) >= 1
            free = client.post("/v1/chat/completions", json=ask(), headers={"authorization": f"Bearer {other}"})
            assert free.status_code == 200
