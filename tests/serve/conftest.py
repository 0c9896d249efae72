"""A server with a tiny random Llama (base ``tiny`` and adapter ``pupil``), in the process and on a real socket."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from hantune.data.templates import get_template
from hantune.data.tokens import Encoder
from hantune.infer.decode import CachedDecoder
from hantune.infer.engine import Engine
from hantune.infer.scheduler import Scheduler
from hantune.serve.address import listen
from hantune.serve.app import Settings, build
from hantune.serve.served import Served
from hantune.serve.server import Server, configuration

CHAT = "/v1/chat/completions"
KEY = "sk-the-right-key-0123456789"
MODELS = {"tiny": None, "pupil": "default"}


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
    yield Served(engine=engine, scheduler=scheduler, models=dict(MODELS))
    scheduler.close()


@pytest.fixture
def open_client(served: Served) -> Iterator[Callable[..., Any]]:
    """``open_client(**settings)``: a client of an application in this process."""
    from fastapi.testclient import TestClient

    clients = []

    def make(**settings: Any) -> TestClient:
        client = TestClient(build(served, Settings(**settings)), base_url="http://localhost:8000")
        clients.append(client.__enter__())
        return clients[-1]

    yield make
    for client in clients:
        client.__exit__(None, None, None)


@pytest.fixture
def own_client(open_client: Callable[..., Any]) -> Any:
    """One without keys, of ``served``."""
    return open_client()


@pytest.fixture(scope="session")
def client(engine: Engine) -> Iterator[Any]:
    """One without keys, for all tests that only ask and change nothing."""
    from fastapi.testclient import TestClient

    scheduler = Scheduler(engine, max_batch=4, max_queue=4)
    served = Served(engine=engine, scheduler=scheduler, models=dict(MODELS))
    with TestClient(build(served, Settings()), base_url="http://localhost:8000") as found:
        yield found
    scheduler.close()


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that takes 10 ms for a token, so that a test meets answers in progress."""
    step = CachedDecoder.step

    def slowly(self: CachedDecoder) -> None:
        time.sleep(0.01)
        step(self)

    monkeypatch.setattr(CachedDecoder, "step", slowly)


@pytest.fixture
def breaks(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """``breaks()``: the third step from now on fails, and no other."""
    step, left = CachedDecoder.step, 0

    def fail(self: CachedDecoder) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise RuntimeError("broken")
        step(self)

    def begin() -> None:
        nonlocal left
        left = 3

    monkeypatch.setattr(CachedDecoder, "step", fail)
    return begin


@dataclass
class Live:
    """A server on a real socket of this machine."""

    served: Served
    server: Server
    app: Any
    port: int
    thread: threading.Thread

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        """As SIGTERM would."""
        self.server.handle_exit(15, None)
        self.thread.join(60)
        assert not self.thread.is_alive()


def start(engine: Engine, *, max_batch: int = 8, max_queue: int = 16, drain: float = 20.0, **settings: Any) -> Live:
    """A server in a thread, once it listens."""
    scheduler = Scheduler(engine, max_batch=max_batch, max_queue=max_queue)
    served = Served(engine=engine, scheduler=scheduler, models=dict(MODELS))
    app = build(served, Settings(**settings))
    listening = listen("127.0.0.1", 0)
    server = Server(configuration(app), served, drain)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    live = Live(served, server, app, listening.getsockname()[1], thread)
    thread.start()
    until(lambda: server.started)
    return live


@pytest.fixture(scope="session")
def live(engine: Engine) -> Iterator[Live]:
    """One for all tests that only talk to it."""
    found = start(engine)
    yield found
    found.stop()


@pytest.fixture
def own(engine: Engine) -> Iterator[Callable[..., Live]]:
    """``own(**settings)``: one for this test alone."""
    made: list[Live] = []

    def make(**settings: Any) -> Live:
        made.append(start(engine, **settings))
        return made[-1]

    yield make
    for each in made:
        each.stop()


def until(condition: Callable[[], Any], seconds: float = 30.0) -> None:
    """Wait; the limit only guards against hanging."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.005)


def send(live: Live, body: dict[str, Any]) -> socket.socket:
    """A chat request on its way; nothing is read."""
    payload = json.dumps(body).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    connection = socket.create_connection(("127.0.0.1", live.port), timeout=30)
    connection.sendall(f"{head}Content-Length: {len(payload)}\r\n\r\n".encode() + payload)
    return connection


def is_idle(live: Live) -> bool:
    """Whether no answer, no request in the queue and no place is taken."""
    stats = live.served.scheduler.stats()
    return stats.running == stats.queued == 0 and not live.app.state.places.taken


def ask(text: str = "你好", **fields: Any) -> dict[str, Any]:
    """The body of a short greedy chat request."""
    settings = {"model": "tiny", "max_tokens": 8, "temperature": 0}
    return {**settings, "messages": [{"role": "user", "content": text}], **fields}


def events(text: str) -> list[Any]:
    """The data of server-sent events; ``[DONE]`` as it stands."""
    found = [part.removeprefix("data: ") for part in text.split("\n\n") if part.startswith("data: ")]
    return [part if part == "[DONE]" else json.loads(part) for part in found]
