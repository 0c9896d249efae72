"""The routes that generate nothing: models, health, metrics, tokens, and the two pages for people."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import PlainTextResponse, Response

from hantune.serve import metrics
from hantune.serve.errors import ApiError, as_api_error
from hantune.serve.openai import Health, ModelCard, ModelList, TokenizeRequest, Tokens, conversation
from hantune.serve.pages import chat_page, interface_page
from hantune.serve.served import Served
from hantune.serve.wire import Json

router = APIRouter()
HTML: dict[int | str, dict[str, Any]] = {200: {"content": {"text/html": {"schema": {"type": "string"}}}}}
ALIVE: dict[int | str, dict[str, Any]] = {200: {"model": Health}, 503: {"model": Health}}


@router.get("/v1/models", summary="The models there are", responses={200: {"model": ModelList}}, response_model=None)
async def models(request: Request) -> Response:
    """The base and each adapter."""
    served: Served = request.app.state.served
    return Json({"object": "list", "data": [served.card(name) for name in served.models]})


@router.get(
    "/v1/models/{model:path}", summary="One model", responses={200: {"model": ModelCard}}, response_model=None
)
async def model(request: Request, model: str) -> Response:
    """A model by its name, which may hold a slash."""
    served: Served = request.app.state.served
    return Json(served.card(model))


@router.post("/tokenize", summary="Text to token ids", responses={200: {"model": Tokens}}, response_model=None)
async def tokenize(request: Request, body: TokenizeRequest) -> Response:
    """The ids that a model would be given."""
    served: Served = request.app.state.served
    adapter = served.adapter(served.main if body.model is None else body.model)
    if (body.prompt is None) == (body.messages is None):
        raise ApiError(400, "要么给 prompt, 要么给 messages", code="invalid_value", param="prompt")
    try:
        if body.messages is not None:
            messages = conversation(body.messages)
            ids = await asyncio.to_thread(served.engine.prompt_ids, messages, adapter)
        else:
            ids = await asyncio.to_thread(served.engine.text_ids, body.prompt or "")
    except Exception as error:
        raise as_api_error(error) from error
    return Json({"tokens": ids, "count": len(ids), "max_model_len": served.engine.limit})


@router.get("/health", summary="Whether it can answer", responses=ALIVE, response_model=None)
@router.get("/health/ready", summary="Whether it takes requests", responses=ALIVE, response_model=None)
async def ready(request: Request) -> Response:
    """503 while it stops, or when its scheduler died."""
    served: Served = request.app.state.served
    if served.is_dead:
        return Json({"status": "dead"}, 503)
    return Json({"status": "closing"}, 503) if served.is_closing else Json({"status": "ok"})


@router.get("/health/live", summary="Whether it should be started anew", responses=ALIVE, response_model=None)
async def live(request: Request) -> Response:
    """503 only when its scheduler died."""
    served: Served = request.app.state.served
    return Json({"status": "dead"}, 503) if served.is_dead else Json({"status": "ok"})


@router.get(
    "/metrics",
    summary="Counts for Prometheus",
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    response_model=None,
)
async def measured(request: Request) -> Response:
    """Queue, tokens, latencies, HTTP answers."""
    state = request.app.state
    text = metrics.render(state.served.scheduler.stats(), state.answered, state.places.taken.total())
    return PlainTextResponse(text, media_type=metrics.TYPE)


@router.get("/", summary="A page to chat", responses=HTML, response_model=None)
async def page(request: Request) -> Response:
    """One file; it asks nothing but this server."""
    return chat_page()


@router.get("/docs", summary="This description, to be read", responses=HTML, response_model=None)
async def docs(request: Request) -> Response:
    """The routes and their fields."""
    return interface_page(request.app.openapi())
