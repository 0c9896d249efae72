"""The answers of one request on their way, and what may cut them: time, a client that is gone, a server that stops."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from typing import Literal

from starlette.types import Receive

from hantune.infer.scheduler import Done, Event, Scheduler, Stream
from hantune.serve.errors import NO_RETRY, ApiError, as_api_error

Why = Literal["timeout", "gone"]


class Attempt:
    """``async with Attempt(...) as attempt: async for number, event in attempt.events()``; on leaving, all end."""

    def __init__(self, scheduler: Scheduler, streams: Sequence[Stream], receive: Receive, seconds: float) -> None:
        self._scheduler = scheduler
        self._streams = streams
        self._receive = receive
        self._seconds = seconds
        self.why: Why | None = None
        """What cut the answers, if anything but the server did."""

    async def __aenter__(self) -> Attempt:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._seconds, self._cut, "timeout")
        self._watch = loop.create_task(self._until_gone())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._timer.cancel()
        self._watch.cancel()
        for stream in self._streams:
            self._scheduler.cancel(stream)
        with contextlib.suppress(asyncio.CancelledError):
            await self._watch

    def _cut(self, why: Why) -> None:
        self.why = self.why or why
        for stream in self._streams:
            self._scheduler.cancel(stream)

    async def _until_gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._cut("gone")

    async def events(self) -> AsyncGenerator[tuple[int, Event], None]:
        """(number of the stream, event) in the order in which they come; each stream ends with its ``Done``."""
        if len(self._streams) == 1:
            async for event in self._streams[0]:
                yield 0, event
            return
        mixed: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()

        async def pass_on(number: int, stream: Stream) -> None:
            async for event in stream:
                mixed.put_nowait((number, event))

        tasks = [asyncio.create_task(pass_on(*each)) for each in enumerate(self._streams)]
        try:
            left = len(tasks)
            while left:
                number, event = await mixed.get()
                left -= isinstance(event, Done)
                yield number, event
        finally:
            for task in tasks:
                task.cancel()

    def failure(self, done: Done) -> ApiError | None:
        """Why this answer is none; None where it is one."""
        if done.finish_reason == "error":
            return as_api_error(done.error or RuntimeError())
        if done.finish_reason != "cancelled":
            return None
        if self.why == "timeout":
            message = f"{self._seconds:g} 秒没有答完, 已经停下"
            return ApiError(503, message, code="timeout", headers=NO_RETRY)
        if self.why == "gone":
            return ApiError(503, "连接断了", code="client_gone")
        return ApiError(503, "服务正在停止, 这个回答没有生成完", code="server_closing", headers={"retry-after": "1"})
