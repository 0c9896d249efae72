"""Streams of the scheduler to HTTP: whole as JSON, or piece by piece as server-sent events."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Iterable, Sequence
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from hantune import __version__
from hantune.infer.scheduler import Done, Logprob, Stream, Token
from hantune.serve.attempt import Attempt
from hantune.serve.openai import Asked
from hantune.serve.served import Served
from hantune.serve.wire import DONE, PING, STREAM_HEADERS, STREAM_TYPE, Json, event

PING_SECONDS = 15.0


class Shape(Protocol):
    """How one kind of answer is written down. ``index`` numbers the choices of a request."""

    id_prefix: str
    whole: str
    chunk: str

    def opening(self, index: int) -> dict[str, Any] | None:
        """The choice that a stream begins with."""

    def piece(self, index: int, token: Token) -> dict[str, Any]:
        """The choice that carries more text."""

    def ending(self, index: int, reason: str) -> dict[str, Any]:
        """The last choice of a stream."""

    def choice(self, index: int, text: str, scores: Sequence[Logprob], reason: str) -> dict[str, Any]:
        """A whole answer."""


class Answer:
    """The answers of one request in one shape. ``repeats``: how many of them share a prompt."""

    def __init__(
        self, served: Served, request: Request, streams: Sequence[Stream], shape: Shape, *, model: str, repeats: int
    ) -> None:
        self._shape = shape
        self._streams = streams
        self._repeats = repeats
        self._note: dict[str, Any] = request.scope["hantune.note"]
        self._note["model"] = model
        self.attempt = Attempt(served.scheduler, streams, request.receive, request.app.state.seconds)
        self._head = {
            "id": shape.id_prefix + uuid.uuid4().hex,
            "object": shape.whole,
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": f"hantune-{__version__}",
        }

    def _usage(self, ends: Iterable[tuple[int, Done]]) -> dict[str, Any]:
        """Token counts of all answers; a prompt that several share counts once."""
        by_number = dict(ends)
        first = [done for number, done in by_number.items() if number % self._repeats == 0]
        prompt = sum(stream.prompt_tokens for stream in self._streams[:: self._repeats])
        completion = sum(done.completion_tokens for done in by_number.values())
        self._note |= {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "finish": ",".join(dict.fromkeys(done.finish_reason for done in by_number.values())),
        }
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": sum(done.cached_tokens for done in first)},
        }

    async def whole(self) -> Response:
        """Everything at once.

        Raises: ApiError, when one of the answers failed or was cut.
        """
        texts: list[list[str]] = [[] for _ in self._streams]
        scores: list[list[Logprob]] = [[] for _ in self._streams]
        ends: dict[int, Done] = {}
        async with self.attempt as attempt:
            async for number, happened in attempt.events():
                if isinstance(happened, Token):
                    texts[number].append(happened.text)
                    scores[number] += happened.logprobs
                    continue
                ends[number] = happened
                if failure := attempt.failure(happened):
                    self._usage(ends.items())
                    raise failure
        usage = self._usage(ends.items())
        choices = [
            self._shape.choice(number, "".join(texts[number]), scores[number], ends[number].finish_reason)
            for number in range(len(self._streams))
        ]
        return Json(self._head | {"choices": choices, "usage": usage})

    async def frames(self, *, with_usage: bool) -> AsyncGenerator[bytes, None]:
        """Server-sent events: the openings, the pieces, the endings, usage if asked, ``[DONE]``."""
        head = self._head | {"object": self._shape.chunk}
        tail = {"usage": None} if with_usage else {}

        def frame(choice: dict[str, Any]) -> bytes:
            return event({**head, "choices": [choice], **tail})

        ends: dict[int, Done] = {}
        async with self.attempt as attempt:
            for number in range(len(self._streams)):
                if opening := self._shape.opening(number):
                    yield frame(opening)
            async for number, happened in attempt.events():
                if isinstance(happened, Token):
                    if happened.text or happened.logprobs:
                        yield frame(self._shape.piece(number, happened))
                    continue
                ends[number] = happened
                if failure := attempt.failure(happened):
                    self._usage(ends.items())
                    self._note["error"] = failure.code
                    yield event(failure.body)
                    yield DONE
                    return
                yield frame(self._shape.ending(number, happened.finish_reason))
        usage = self._usage(ends.items())
        if with_usage:
            yield event({**head, "choices": [], "usage": usage})
        yield DONE


class EventStream(Response):
    """Frames as they come, and a sign of life where none comes for long."""

    media_type = STREAM_TYPE

    def __init__(self, frames: AsyncGenerator[bytes, None]) -> None:
        super().__init__(None, 200, STREAM_HEADERS)
        del self.headers["content-length"]
        self._frames = frames

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        alive = asyncio.create_task(self._keep_alive(send))
        try:
            async for frame in self._frames:
                await send({"type": "http.response.body", "body": frame, "more_body": True})
        finally:
            alive.cancel()
            await self._frames.aclose()
        await send({"type": "http.response.body", "body": b""})

    async def _keep_alive(self, send: Send) -> None:
        while True:
            await asyncio.sleep(PING_SECONDS)
            await send({"type": "http.response.body", "body": PING, "more_body": True})


async def respond(answer: Answer, asked: Asked) -> Response:
    """The response in the form that was asked for.

    Raises: ApiError.
    """
    if not asked.stream:
        return await answer.whole()
    options = asked.stream_options
    return EventStream(answer.frames(with_usage=bool(options and options.include_usage)))
