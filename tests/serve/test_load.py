"""Many clients at once, and thousands one after another."""

from __future__ import annotations

import asyncio
import resource
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tests.serve.conftest import Live, ask, until

pytestmark = pytest.mark.slow
CHAT = "/v1/chat/completions"


def crowd(live: Live, clients: int, again: Callable[[int], bool], **fields: Any) -> Counter[int]:
    """How often each status was answered to ``clients`` that each ask as long as ``again(how often)`` says."""
    import httpx2

    statuses: Counter[int] = Counter()

    async def one(client: httpx2.AsyncClient, number: int) -> None:
        count = 0
        while again(count):
            count += 1
            stream = bool((number + count) % 2)
            body = ask(f"第{number}个人的第{count}句", stream=stream, **fields)
            response = await client.post(f"{live.url}{CHAT}", json=body)
            statuses[response.status_code] += 1
            if response.status_code == 429:
                assert int(response.headers["retry-after"]) >= 1
                await asyncio.sleep(0.05)
            elif stream and response.status_code == 200:
                assert response.text.endswith("data: [DONE]\n\n")

    async def all_of_them() -> None:
        limits = httpx2.Limits(max_connections=clients, max_keepalive_connections=clients)
        async with httpx2.AsyncClient(timeout=120, limits=limits) as client:
            await asyncio.gather(*(one(client, number) for number in range(clients)))

    asyncio.run(all_of_them())
    return statuses


def test_two_hundred_clients_over_a_queue_of_sixty_four(own: Callable[..., Live]) -> None:
    """Every request ends with 200, 429 or 503; none hangs; a stop in the middle loses no answer that began."""
    live = own(max_batch=32, max_queue=64)
    end = time.monotonic() + 20
    statuses = crowd(live, 200, lambda _: time.monotonic() < end)
    assert set(statuses) <= {200, 429, 503}
    assert statuses[200] > 200
    assert statuses[429]
    until(lambda: not live.app.state.places.taken)
    stats = live.served.scheduler.stats()
    assert (stats.running, stats.queued, stats.finished.get("error", 0)) == (0, 0, 0)
    print(dict(statuses))


def test_memory_stays_flat(own: Callable[..., Live]) -> None:
    live = own(max_batch=16, max_queue=64)
    crowd(live, 8, lambda count: count < 125, max_tokens=2)
    before = _memory()
    crowd(live, 8, lambda count: count < 625, max_tokens=2)
    after = _memory()
    print(f"{before:.0f} -> {after:.0f} MB after 5,000 more requests")
    assert after <= before * 1.03


def _memory() -> float:
    """Resident now, in MB; where Linux does not tell, the most it ever was."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * resource.getpagesize() / 2**20
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
