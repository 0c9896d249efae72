"""What a server offers: the base and each adapter under a name of its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hantune.errors import ConfigError
from hantune.infer.engine import Engine
from hantune.infer.scheduler import Request, Scheduler, Stream
from hantune.models.hub import is_hub_id
from hantune.paths import RunFolder
from hantune.serve.errors import ApiError, as_api_error
from hantune.serve.limits import retry_after


@dataclass(kw_only=True)
class Served:
    """An engine at work under the names clients know. ``models``: name -> adapter, None for the base; the first is
    the one that was asked for on the command line."""

    engine: Engine
    scheduler: Scheduler
    models: dict[str, str | None]
    created: int = field(default_factory=lambda: int(time.time()))
    is_closing: bool = False
    """Whether it was told to stop."""

    @property
    def main(self) -> str:
        return next(iter(self.models))

    @property
    def is_dead(self) -> bool:
        """Whether the scheduler ended although nobody told it to."""
        return not self.is_closing and not self.scheduler.stats().is_alive

    @property
    def base(self) -> str:
        return next(name for name, adapter in self.models.items() if adapter is None)

    def adapter(self, model: str) -> str | None:
        """The adapter behind a name; nothing is ever loaded because a request names it.

        Raises: ApiError 404 that lists the names there are.
        """
        if model not in self.models:
            there = ", ".join(self.models)
            message = f"没有叫 {model[:100]!r} 的模型, 有: {there}"
            raise ApiError(404, message, code="model_not_found", param="model")
        return self.models[model]

    def card(self, model: str) -> dict[str, Any]:
        """OpenAI's description of a model.

        Raises: ApiError 404.
        """
        adapter = self.adapter(model)
        return {
            "id": model,
            "object": "model",
            "created": self.created,
            "owned_by": "hantune",
            "parent": None if adapter is None else self.base,
            "max_model_len": self.engine.limit,
        }

    async def submit(self, requests: Sequence[Request]) -> list[Stream]:
        """The answers' streams. The prompt is tokenised in another thread, so that others are served meanwhile.

        Raises: ApiError.
        """
        try:
            return await asyncio.to_thread(self.scheduler.submit_all, requests)
        except Exception as error:
            refused = as_api_error(error)
            if refused.status in (429, 503):
                refused.headers["retry-after"] = str(self.wait_seconds())
            raise refused from error

    def wait_seconds(self) -> int:
        """When it is worth to try again where the queue is full."""
        stats = self.scheduler.stats()
        done = sum(stats.request_seconds.counts)
        each = stats.request_seconds.sum / done if done else 1.0
        return retry_after(stats.queued, self.scheduler.max_batch, each)


def names(model: str, engine: Engine) -> dict[str, str | None]:
    """The names under which ``model``, as it was given on the command line, its base and its adapters are offered.

    Raises: ConfigError ``infer.adapter-name`` where an adapter would have the name of the model.
    """
    own = public_name(model)
    others = engine.adapters if engine.adapter is None else engine.adapters[1:]
    if own in others:
        raise ConfigError(
            "infer.adapter-name", f"适配器不能叫 {own!r}: 这是 MODEL 的名字", place="--adapter", hint="换一个名字"
        )
    rest: dict[str, str | None] = {name: name for name in others}
    if engine.adapter is None:
        return {own: None} | rest
    base = public_name(engine.name)
    base = f"{base}-base" if base == own or base in others else base
    return {own: engine.adapters[0]} | {base: None} | rest


def public_name(path: str) -> str:
    """The name of a model for others to see: a hub's id, or the last part of a path (the run's, inside a run)."""
    if is_hub_id(path):
        return path
    folder = Path(path).expanduser().resolve()
    if folder.parent.name == "snapshots" and folder.parent.parent.name.startswith("models--"):
        return folder.parent.parent.name.removeprefix("models--").replace("--", "/", 1)
    if folder.name in ("adapter", "model") and RunFolder(folder.parent).is_run:
        folder = folder.parent
    return folder.name or "model"
