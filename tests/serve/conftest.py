"""A server with a tiny random Llama (base ``tiny`` and adapter ``pupil``), in the process and on a real socket."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hantune.data.templates import get_template
from hantune.data.tokens import Encoder
from hantune.infer.engine import Engine
from hantune.infer.scheduler import Scheduler
from hantune.serve.app import Settings, build
from hantune.serve.served import Served

KEY = "sk-the-right-key-0123456789"


@pytest.fixture(scope="session")
def engine(tiny_llama: Callable[..., Any], sp_tokenizer: Any) -> Engine:
    """Llama 2's template, 512 tokens of context, one adapter that changes the answers."""
    import torch
    from peft import LoraConfig, get_peft_model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        config = LoraConfig(target_modules="all-linear", init_lora_weights=False, lora_alpha=64)
        model = get_peft_model(tiny_llama(sp_tokenizer), config)
    return Engine(model, Encoder(sp_tokenizer), get_template("llama2"), name="tiny", adapter="adapter")


@pytest.fixture
def served(engine: Engine) -> Iterator[Served]:
    """A scheduler of its own for each test that counts, fills or stops it."""
    scheduler = Scheduler(engine, max_batch=4, max_queue=4)
    yield Served(engine=engine, scheduler=scheduler, models={"tiny": None, "pupil": "default"})
    scheduler.close()


@pytest.fixture
def open_client(served: Served) -> Iterator[Callable[..., Any]]:
    """``open_client(**settings)``: a client of an application in this process."""
    from fastapi.testclient import TestClient

    clients = []

    def make(**settings: Any) -> TestClient:
        app = build(served, Settings(**settings))
        client = TestClient(app, base_url="http://localhost:8000", raise_server_exceptions=True)
        clients.append(client.__enter__())
        return clients[-1]

    yield make
    for client in clients:
        client.__exit__(None, None, None)


@pytest.fixture
def client(open_client: Callable[..., Any]) -> Any:
    """One without keys."""
    return open_client()


def ask(text: str = "你好", **fields: Any) -> dict[str, Any]:
    """The body of a short greedy chat request."""
    settings = {"model": "tiny", "max_tokens": 8, "temperature": 0}
    return {**settings, "messages": [{"role": "user", "content": text}], **fields}
