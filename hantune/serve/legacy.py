"""``POST /stream``: the polling protocol of older kits. The same request again brings the text so far.

    {"prompt": str, "history": [[q, a], ...]} -> {"response", "history", "status", "time"}, always at once

The first call starts an answer. While it grows, ``response`` is its text so far; when it is complete ``[stop]`` stands
behind it, and ``history`` has the new pair. A client may name a ``session``, so that two behind one address who ask the
same never share an answer. A model that itself writes ``[stop]`` is shown with full-width brackets, so that in
``response`` the mark only ever means the end; ``history`` has its words as they were.
"""

from __future__ import annotations

import asyncio
import queue
import time
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from hantune.data.types import Message
from hantune.infer.sample import SamplingParams
from hantune.infer.scheduler import Done, Stream
from hantune.infer.scheduler import Request as Question
from hantune.serve.errors import ApiError, as_api_error
from hantune.serve.openai import DEFAULT_TOKENS, MOST_MESSAGES, ErrorBody, Model
from hantune.serve.served import Served
from hantune.serve.wire import Json

PATH = "/stream"
STOP, SHOWN_STOP = "[stop]", "［stop］"
FORGET_SECONDS = 60.0
"""After so long without a call an answer is stopped and forgotten."""
MOST_SESSIONS = 256

router = APIRouter()
Key = tuple[Any, ...]


class StreamRequest(Model):
    prompt: str
    history: Annotated[
        list[Annotated[list[str], Field(min_length=2, max_length=2)]], Field(max_length=MOST_MESSAGES)
    ] = []
    session: Annotated[str, Field(max_length=128)] | None = None
    model: Annotated[str, Field(max_length=256)] | None = None


class StreamAnswer(BaseModel):
    response: str
    history: list[list[str]]
    status: int
    time: str


class StreamRefusal(StreamAnswer):
    error: str


# Errors of a question have the shape of the protocol; those of the door (key, body) that of all others.
ANSWERS: dict[int | str, dict[str, Any]] = {200: {"model": StreamAnswer}}
ANSWERS |= {status: {"model": StreamRefusal | ErrorBody} for status in (400, 404, 429, 500, 503)}


class Session:
    """One answer that is being polled for."""

    def __init__(self, stream: Stream, ask: StreamRequest) -> None:
        self.stream = stream
        self._ask = ask
        self._texts: list[str] = []
        self._done: Done | None = None
        self.timer: asyncio.TimerHandle | None = None

    @property
    def is_finished(self) -> bool:
        self._catch_up()
        return self._done is not None

    def _catch_up(self) -> None:
        while self._done is None:
            try:
                event = self.stream.get(timeout=0)
            except queue.Empty:
                return
            if isinstance(event, Done):
                self._done = event
            else:
                self._texts.append(event.text)

    def answer(self) -> dict[str, Any]:
        """What the next poll is told."""
        self._catch_up()
        text = "".join(self._texts)
        shown = text.replace(STOP, SHOWN_STOP)
        done, history = self._done, self._ask.history
        if done is None:
            return _answer(_certain(shown), history, 200)
        if done.finish_reason in ("stop", "length"):
            return _answer(shown + STOP, [*history, [self._ask.prompt, text]], 200)
        problem = as_api_error(done.error) if done.error else ApiError(503, "没有生成完, 服务正在停止")
        return _answer(shown + STOP, history, problem.status, problem.message)


def _certain(shown: str) -> str:
    """Without an end that may still become the mark."""
    cut = next((n for n in range(len(STOP) - 1, 0, -1) if shown.endswith(STOP[:n])), 0)
    return shown[: len(shown) - cut]


def _answer(text: str, history: Sequence[Sequence[str]], status: int, error: str | None = None) -> dict[str, Any]:
    answer = {
        "response": text,
        "history": history,
        "status": status,
        "time": time.strftime("%Y-%m-%d %H:%M:%S"),
    }
    return answer if error is None else answer | {"error": error}


def refusal(problem: ApiError) -> Response:
    """An error in the shape of the protocol; ``[stop]``, because nothing more will come."""
    return Json(_answer(STOP, [], problem.status, problem.message), problem.status, problem.headers)


class Sessions:
    """The answers in progress, and those that were not forgotten yet, of all clients."""

    def __init__(self, served: Served, *, most: int = MOST_SESSIONS, seconds: float = FORGET_SECONDS) -> None:
        self._served = served
        self._most = most
        self._seconds = seconds
        self._sessions: dict[Key, Session | None] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    async def poll(self, client: tuple[Any, ...], ask: StreamRequest) -> dict[str, Any]:
        """The text so far; an unknown question is begun.

        Raises: ApiError.
        """
        turns = tuple((question, answer) for question, answer in ask.history)
        key = (*client, ask.session, ask.model, ask.prompt, turns)
        if key not in self._sessions:
            await self._begin(key, ask)
            self._keep(key)
            return _answer("", ask.history, 200)
        self._keep(key)
        session = self._sessions[key]
        return _answer("", ask.history, 200) if session is None else session.answer()

    async def _begin(self, key: Key, ask: StreamRequest) -> None:
        adapter = self._served.adapter(self._served.main if ask.model is None else ask.model)
        self._make_room()
        self._sessions[key] = None  # the same question that comes meanwhile waits for this one
        try:
            most = min(DEFAULT_TOKENS, self._served.engine.limit or DEFAULT_TOKENS)
            messages = [*_messages(ask.history), Message(role="user", text=ask.prompt)]
            params = SamplingParams(max_tokens=most)
            question = Question(messages=tuple(messages), params=params, adapter=adapter)
            (stream,) = await self._served.submit([question])
        except BaseException:
            del self._sessions[key]
            raise
        self._sessions[key] = Session(stream, ask)

    def _make_room(self) -> None:
        """Forget the oldest that is complete.

        Raises: ApiError 429.
        """
        if len(self._sessions) < self._most:
            return
        oldest = next((key for key, one in self._sessions.items() if one is not None and one.is_finished), None)
        if oldest is None:
            again = {"retry-after": str(self._served.wait_seconds())}
            raise ApiError(429, f"最多同时有 {self._most} 个回答, 稍后再试", code="queue_full", headers=again)
        self._forget(oldest)

    def _keep(self, key: Key) -> None:
        """Somebody still asks for it."""
        session = self._sessions.get(key)
        if session is None:
            return
        if session.timer is not None:
            session.timer.cancel()
        session.timer = asyncio.get_running_loop().call_later(self._seconds, self._forget, key)

    def _forget(self, key: Key) -> None:
        session = self._sessions.pop(key, None)
        if session is None:
            return
        if session.timer is not None:
            session.timer.cancel()
        self._served.scheduler.cancel(session.stream)


def _messages(history: Sequence[Sequence[str]]) -> list[Message]:
    return [
        message
        for question, answer in history
        for message in (Message(role="user", text=question), Message(role="assistant", text=answer))
    ]


@router.post(PATH, summary="Poll for an answer", responses=ANSWERS, response_model=None)
async def stream(request: Request, body: StreamRequest) -> Response:
    """The text so far of the answer to ``prompt`` after ``history``; ``[stop]`` stands behind a complete one."""
    sessions: Sessions = request.app.state.sessions
    client = (request.scope["hantune.owner"], request.client.host if request.client else None)
    try:
        answer = await sessions.poll(client, body)
    except Exception as error:
        return refusal(as_api_error(error))
    return Json(answer, answer["status"])
