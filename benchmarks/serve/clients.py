"""Clients of a chat server over HTTP: what each was answered, and when its text came."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx2

CHAT = "/v1/chat/completions"


@dataclass
class Heard:
    """One answer: its status (0: the connection broke), when it was asked for, and when each piece of text came."""

    asked_at: float
    status: int = 0
    times: list[float] = field(default_factory=list)
    ended_at: float | None = None
    tokens: int | None = None


def pool(clients: int, seconds: float) -> httpx2.AsyncClient:
    """Connections for so many clients; ``seconds`` without a byte is an error."""
    limits = httpx2.Limits(max_connections=clients, max_keepalive_connections=clients)
    return httpx2.AsyncClient(timeout=seconds, limits=limits, trust_env=False)


async def listen(
    client: httpx2.AsyncClient, url: str, body: dict[str, Any], until: Callable[[Heard], bool] = lambda _: False
) -> Heard:
    """Ask for a stream and hear it to its end, or until ``until`` says to hang up."""
    heard = Heard(time.perf_counter())
    asked = {**body, "stream": True, "stream_options": {"include_usage": True}}
    async with client.stream("POST", url + CHAT, json=asked) as response:
        heard.status = response.status_code
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                _note(heard, json.loads(line[6:]))
            if until(heard):
                return heard
    heard.ended_at = time.perf_counter()
    return heard


def _note(heard: Heard, event: dict[str, Any]) -> None:
    if usage := event.get("usage"):
        heard.tokens = usage["completion_tokens"]
    if any(choice["delta"].get("content") for choice in event.get("choices", ())):
        heard.times.append(time.perf_counter())


async def crowd(url: str, bodies: Sequence[dict[str, Any]], seconds: float) -> list[Heard]:
    """All at once, each to its end or until ``seconds`` are over: then all hang up."""
    end = time.perf_counter() + seconds
    async with pool(len(bodies), seconds) as client:
        kept: list[Heard] = []

        async def one(body: dict[str, Any]) -> None:
            def late(heard: Heard) -> bool:
                if heard not in kept:
                    kept.append(heard)
                return time.perf_counter() > end

            await listen(client, url, body, late)

        tasks = [asyncio.create_task(one(body)) for body in bodies]
        _, late_ones = await asyncio.wait(tasks, timeout=seconds)
        for task in late_ones:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return kept


def figures(heard: Sequence[Heard], clients: int) -> dict[str, Any]:
    """Tokens a second from the first request to the last text, first text, and gaps between two pieces of it.

    Tokens are those that the server counts; where it was cut off, or does not count, pieces of text.
    """
    began = min(each.asked_at for each in heard)
    last = max((time for each in heard for time in each.times), default=began)
    tokens = sum(each.tokens or len(each.times) for each in heard)
    first = [each.times[0] - each.asked_at for each in heard if each.times]
    gaps = [b - a for each in heard for a, b in zip(each.times, each.times[1:], strict=False)]
    return {
        "clients": clients,
        "complete": sum(each.ended_at is not None for each in heard),
        "tokens": tokens,
        "seconds": round(last - began, 2),
        "tokens_per_second": round(tokens / max(last - began, 1e-9), 1),
        "first_text_seconds": {"p50": percentile(first, 50), "p95": percentile(first, 95)},
        "gap_seconds": {"p50": percentile(gaps, 50), "p95": percentile(gaps, 95)},
    }


def percentile(values: Sequence[float], percent: int) -> float | None:
    if len(values) < 2:
        return round(values[0], 3) if values else None
    return round(statistics.quantiles(values, n=100, method="inclusive")[percent - 1], 3)


async def load(url: str, clients: int, seconds: float, body_of: Callable[[int], dict[str, Any]]) -> dict[str, Any]:
    """``clients`` that ask again and again, every other time for a stream; every answer is counted by its status."""
    statuses: Counter[int | str] = Counter()
    broken = 0
    longest = 0.0
    end = time.perf_counter() + seconds

    async def one(client: httpx2.AsyncClient, number: int) -> None:
        nonlocal broken, longest
        while time.perf_counter() < end:
            number += clients
            began, stream = time.perf_counter(), bool(number // clients % 2)
            try:
                answer = await client.post(url + CHAT, json={**body_of(number), "stream": stream})
            except httpx2.HTTPError as error:
                statuses[type(error).__name__] += 1
                continue
            longest = max(longest, time.perf_counter() - began)
            statuses[answer.status_code] += 1
            if answer.status_code == 429:
                await asyncio.sleep(min(int(answer.headers["retry-after"]), 1))
            elif answer.status_code == 200 and stream:
                broken += not answer.text.endswith("data: [DONE]\n\n")

    async with pool(clients, 120) as client:
        await asyncio.gather(*(one(client, number) for number in range(clients)))
    counts = {str(key): statuses[key] for key in sorted(statuses, key=str)}
    return {
        "clients": clients, "seconds": seconds, "statuses": counts,
        "streams_without_end": broken, "longest_answer_seconds": round(longest, 2),
    }  # fmt: skip


async def many(url: str, count: int, clients: int, body_of: Callable[[int], dict[str, Any]]) -> Counter[int]:
    """``count`` requests of ``clients`` clients, every other one for a stream."""
    numbers = iter(range(count))
    statuses: Counter[int] = Counter()

    async def one(client: httpx2.AsyncClient) -> None:
        for number in numbers:
            answer = await client.post(url + CHAT, json={**body_of(number), "stream": bool(number % 2)})
            statuses[answer.status_code] += 1

    async with pool(clients, 120) as client:
        await asyncio.gather(*(one(client) for _ in range(clients)))
    return statuses
