"""``POST /v1/completions``: texts to be continued."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from hantune.infer.engine import Engine
from hantune.infer.scheduler import Logprob, Token
from hantune.infer.scheduler import Request as Question
from hantune.serve.answer import Answer, respond
from hantune.serve.chat import repeated
from hantune.serve.errors import ApiError
from hantune.serve.openai import CompletionRequest, TextCompletion
from hantune.serve.served import Served
from hantune.serve.wire import STREAM_TYPE

router = APIRouter()
MOST_ANSWERS = 32
"""Of all prompts of a request together."""


class TextShape:
    """``text_completion``; ``echoes`` are the texts that stand before each answer."""

    id_prefix = "cmpl-"
    whole = chunk = "text_completion"

    def __init__(self, echoes: Sequence[str]) -> None:
        self._echoes = echoes
        self._offsets = [len(echo) for echo in echoes]

    def opening(self, index: int) -> dict[str, Any] | None:
        if not self._echoes[index]:
            return None
        return {"index": index, "text": self._echoes[index], "logprobs": None, "finish_reason": None}

    def piece(self, index: int, token: Token) -> dict[str, Any]:
        logprobs = self._logprobs(index, token.logprobs)
        return {"index": index, "text": token.text, "logprobs": logprobs, "finish_reason": None}

    def ending(self, index: int, reason: str) -> dict[str, Any]:
        return {"index": index, "text": "", "logprobs": None, "finish_reason": reason}

    def choice(self, index: int, text: str, scores: Sequence[Logprob], reason: str) -> dict[str, Any]:
        logprobs = self._logprobs(index, scores)
        return {"index": index, "text": self._echoes[index] + text, "logprobs": logprobs, "finish_reason": reason}

    def _logprobs(self, index: int, scores: Sequence[Logprob]) -> dict[str, Any] | None:
        """The older shape: parallel lists, and where each token begins in the text."""
        if not scores:
            return None
        tokens = [_text(score.piece) for score in scores]
        offsets = []
        for token in tokens:
            offsets.append(self._offsets[index])
            self._offsets[index] += len(token)
        return {
            "tokens": tokens,
            "token_logprobs": [score.value for score in scores],
            "top_logprobs": [{_text(piece): value for _, piece, value in score.top} for score in scores],
            "text_offset": offsets,
        }


def _text(piece: bytes) -> str:
    return piece.decode("utf-8", "replace")


def prompt_ids(engine: Engine, prompts: Sequence[str | list[int]]) -> list[tuple[int, ...]]:
    """The ids of each prompt.

    Raises: ApiError 400 for an empty prompt, or an id that the model does not have.
    """
    found = [tuple(engine.text_ids(prompt) if isinstance(prompt, str) else prompt) for prompt in prompts]
    for ids in found:
        if not ids:
            raise ApiError(400, "prompt 是空的", code="invalid_value", param="prompt")
        if max(ids) >= engine.encoder.vocab_size:
            message = f"prompt 里有词元 {max(ids)}, 这个模型只有 {engine.encoder.vocab_size} 个"
            raise ApiError(400, message, code="invalid_value", param="prompt")
    return found


@router.post(
    "/v1/completions",
    summary="Continue a text",
    responses={200: {"model": TextCompletion, "content": {STREAM_TYPE: {}}}},
    response_model=None,
)
async def completions(request: Request, body: CompletionRequest) -> Response:
    """What a model writes after ``prompt``, without any template; with ``stream`` as server-sent events."""
    served: Served = request.app.state.served
    adapter = served.adapter(body.model)
    body.require_supported()
    params, prompts = body.params(served.engine.limit), body.prompts()
    if len(prompts) * body.choices > MOST_ANSWERS:
        message = f"一个请求最多 {MOST_ANSWERS} 个回答 (prompt 的个数乘 n)"
        raise ApiError(400, message, code="invalid_value", param="n")
    ids = await asyncio.to_thread(prompt_ids, served.engine, prompts)
    questions = [Question(prompt=each, params=params, adapter=adapter) for each in ids]
    streams = await served.submit([one for question in questions for one in repeated(question, body.choices)])
    shape = TextShape([_echo(served.engine, prompt, body.echo) for prompt in prompts for _ in range(body.choices)])
    answer = Answer(served, request, streams, shape, model=body.model, repeats=body.choices)
    return await respond(answer, body)


def _echo(engine: Engine, prompt: str | list[int], wanted: bool | None) -> str:
    if not wanted:
        return ""
    return prompt if isinstance(prompt, str) else engine.encoder.decode(prompt)
