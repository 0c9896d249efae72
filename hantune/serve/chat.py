"""``POST /v1/chat/completions``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from hantune.infer.scheduler import Logprob, Token
from hantune.infer.scheduler import Request as Question
from hantune.serve.answer import Answer, respond
from hantune.serve.openai import ChatCompletion, ChatRequest, conversation, seeded
from hantune.serve.served import Served
from hantune.serve.wire import STREAM_TYPE

router = APIRouter()


class ChatShape:
    """``chat.completion`` and its chunks."""

    id_prefix = "chatcmpl-"
    whole = "chat.completion"
    chunk = "chat.completion.chunk"

    def opening(self, index: int) -> dict[str, Any]:
        delta = {"role": "assistant", "content": ""}
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}

    def piece(self, index: int, token: Token) -> dict[str, Any]:
        delta = {"content": token.text}
        return {"index": index, "delta": delta, "logprobs": _logprobs(token.logprobs), "finish_reason": None}

    def ending(self, index: int, reason: str) -> dict[str, Any]:
        return {"index": index, "delta": {}, "logprobs": None, "finish_reason": reason}

    def choice(self, index: int, text: str, scores: Sequence[Logprob], reason: str) -> dict[str, Any]:
        message = {"role": "assistant", "content": text, "refusal": None}
        return {"index": index, "message": message, "logprobs": _logprobs(scores), "finish_reason": reason}


def _logprobs(scores: Sequence[Logprob]) -> dict[str, Any] | None:
    if not scores:
        return None
    content = [
        _scored(score.piece, score.value) | {"top_logprobs": [_scored(piece, value) for _, piece, value in score.top]}
        for score in scores
    ]
    return {"content": content, "refusal": None}


def _scored(piece: bytes, value: float) -> dict[str, Any]:
    return {"token": piece.decode("utf-8", "replace"), "logprob": value, "bytes": list(piece)}


@router.post(
    "/v1/chat/completions",
    summary="Answer a conversation",
    responses={200: {"model": ChatCompletion, "content": {STREAM_TYPE: {}}}},
    response_model=None,
)
async def chat_completions(request: Request, body: ChatRequest) -> Response:
    """The answers of a model to ``messages``; with ``stream`` as server-sent events."""
    served: Served = request.app.state.served
    adapter = served.adapter(body.model)
    body.require_supported()
    params = body.params(served.engine.limit)
    question = Question(messages=conversation(body.messages), params=params, adapter=adapter)
    streams = await served.submit(repeated(question, body.choices))
    answer = Answer(served, request, streams, ChatShape(), model=body.model, repeats=body.choices)
    return await respond(answer, body)


def repeated(question: Question, times: int) -> list[Question]:
    """The same question ``times`` times, each with a chance of its own."""
    return [replace(question, params=params) for params in seeded(question.params, times)]
