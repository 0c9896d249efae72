"""The server's engine: what clients get is what they would get alone; it refuses, cancels, drains and lives on."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hantune.data.types import Message
from hantune.errors import RefusedError
from hantune.infer.engine import Engine, open_engine
from hantune.infer.prefix import PrefixStore
from hantune.infer.sample import SamplingParams
from hantune.infer.scheduler import Done, Event, Request, Scheduler, Stream, Token

TEXTS = (
    "你好",
    "推荐一道家常菜。今天天气很好，我们去公园散步吧。",
    "你叫什么名字？",
    "Hello, how are you today?",
    "龘",
)


def request(number: int, **changes: Any) -> Request:
    params = SamplingParams(max_tokens=4 + number % 7, temperature=float(number % 2), top_p=0.9, seed=number)
    messages = (Message(role="user", text=TEXTS[number % len(TEXTS)]),)
    return Request(messages=messages, params=replace(params, **changes))


class Gate:
    """Holds the model before a forward call until it is opened, or makes the call fail."""

    def __init__(self, model: Any) -> None:
        self.calls = 0
        self.failure: Exception | None = None
        self._steps = threading.Semaphore(0)
        self._entered = threading.Semaphore(0)
        self._is_open = False
        model.register_forward_pre_hook(self._wait)

    def _wait(self, *_: Any) -> None:
        self.calls += 1
        self._entered.release()
        if not self._is_open:
            self._steps.acquire()
        if self.failure:
            failure, self.failure = self.failure, None
            raise failure

    def reached(self) -> None:
        """Wait until the model is called once more."""
        assert self._entered.acquire(timeout=60)

    def step(self) -> None:
        """Let one call through."""
        self._steps.release()

    def open(self) -> None:
        self._is_open = True
        self._steps.release()


@pytest.fixture
def make() -> Iterator[Callable[..., Scheduler]]:
    made: list[Scheduler] = []

    def build(engine: Engine, **settings: Any) -> Scheduler:
        made.append(Scheduler(engine, **settings))
        return made[-1]

    yield build
    for scheduler in made:
        scheduler.close()


def test_every_client_gets_what_it_would_get_alone(engine: Engine, make: Callable[..., Scheduler]) -> None:
    requests = [request(number) for number in range(20)]
    wanted = [engine.answer(each.messages, each.params) for each in requests]
    engine.prefixes = PrefixStore(2**24)
    adapter = engine.adapters[0] if engine.adapters else None
    scheduler = make(engine, max_batch=4, max_queue=32)
    streams = [scheduler.submit(replace(each, adapter=adapter)) for each in requests]
    for stream, completion in zip(streams, wanted, strict=True):
        *tokens, done = list(stream)
        assert isinstance(done, Done)
        assert "".join(token.text for token in tokens if isinstance(token, Token)) == completion.text
        assert tuple(i for token in tokens if isinstance(token, Token) for i in token.ids) == completion.ids
        assert (done.finish_reason, done.usage) == (completion.finish_reason, completion.usage)
    stats = scheduler.stats()
    assert stats.finished == {"length": 20}
    assert (stats.submitted, stats.queued, stats.running, stats.is_alive) == (20, 0, 0, True)
    assert stats.completion_tokens == sum(len(completion.ids) for completion in wanted)
    assert sum(stats.first_token_seconds.counts) == sum(stats.request_seconds.counts) == 20


def test_requests_in_many_event_loops_and_threads_do_not_mix(llama: Engine, make: Callable[..., Scheduler]) -> None:
    wanted = [llama.answer(request(n).messages, request(n).params).text for n in range(12)]
    scheduler = make(llama, max_batch=5)
    found: dict[int, str] = {}

    async def ask(number: int) -> None:
        stream = await asyncio.to_thread(scheduler.submit, request(number))
        found[number] = "".join([event.text async for event in stream if isinstance(event, Token)])

    async def ask_all(numbers: range) -> None:
        await asyncio.gather(*map(ask, numbers))

    threads = [threading.Thread(target=lambda n=n: asyncio.run(ask_all(range(n, 12, 3)))) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [found[number] for number in range(12)] == wanted


def test_a_newcomer_joins_between_two_steps_and_a_cancelled_one_leaves(
    llama: Engine, make: Callable[..., Scheduler]
) -> None:
    gate, scheduler = Gate(llama.model), make(llama, max_batch=2, max_queue=4)
    first = scheduler.submit(request(0, max_tokens=400))
    gate.reached()
    second, third = scheduler.submit(request(1, max_tokens=3)), scheduler.submit(request(2, max_tokens=3))
    assert scheduler.stats().queued == 2
    gate.step()  # the first's prompt
    gate.reached()
    scheduler.cancel(first)
    scheduler.cancel(first)
    gate.open()
    done = first.result()[1]
    assert (done.finish_reason, done.completion_tokens) == ("cancelled", 2)  # the prompt's, and the step's under way
    assert [stream.result()[1].completion_tokens for stream in (second, third)] == [3, 3]
    scheduler.cancel(second)
    assert scheduler.stats().finished == {"cancelled": 1, "length": 2}


def test_one_that_waits_can_be_cancelled(llama: Engine, make: Callable[..., Scheduler]) -> None:
    gate, scheduler = Gate(llama.model), make(llama, max_batch=1, max_queue=4)
    first = scheduler.submit(request(0))
    gate.reached()
    waiting = scheduler.submit(request(1))
    scheduler.cancel(waiting)
    gate.open()
    assert waiting.result() == ("", Done(finish_reason="cancelled", prompt_tokens=waiting.prompt_tokens))
    assert first.result()[1].finish_reason == "length"


def test_a_full_queue_refuses_all_or_none(llama: Engine, make: Callable[..., Scheduler]) -> None:
    gate, scheduler = Gate(llama.model), make(llama, max_batch=1, max_queue=2)
    streams = [scheduler.submit(request(0))]
    gate.reached()
    streams.append(scheduler.submit(request(1)))
    with pytest.raises(RefusedError) as caught:
        scheduler.submit_all([request(2), request(3)])
    assert caught.value.code == "infer.queue-full"
    streams.append(scheduler.submit(request(2)))
    with pytest.raises(RefusedError):
        scheduler.submit(request(3))
    gate.open()
    assert [stream.result()[1].finish_reason for stream in streams] == ["length"] * 3


def test_n_answers_to_one_prompt_read_it_once(llama: Engine, make: Callable[..., Scheduler]) -> None:
    gate, scheduler = Gate(llama.model), make(llama)
    gate.open()
    requests = [request(1, max_tokens=1, temperature=1.0, seed=seed) for seed in range(5)]
    streams = scheduler.submit_all(requests)
    assert [stream.result()[1].completion_tokens for stream in streams] == [1] * 5
    assert gate.calls == 1
    assert len({stream.id for stream in streams}) == 5


def test_a_step_that_fails_ends_its_requests_and_nothing_else(llama: Engine, make: Callable[..., Scheduler]) -> None:
    wanted = llama.answer(request(0).messages, request(0).params).text
    llama.prefixes = PrefixStore(2**24)
    gate, scheduler = Gate(llama.model), make(llama, max_batch=2)
    failing = scheduler.submit(request(0))
    gate.reached()
    later = scheduler.submit(request(0))
    gate.failure = MemoryError("out of memory")
    gate.open()
    done = failing.result()[1]
    assert (done.finish_reason, done.error and done.error.code) == ("error", "infer.step-failed")
    assert later.result()[0] == wanted
    assert scheduler.stats().is_alive


@pytest.mark.parametrize("drain", [0.0, 60.0])
def test_closing_ends_every_stream_with_a_reason(llama: Engine, drain: float) -> None:
    gate, scheduler = Gate(llama.model), Scheduler(llama, max_batch=1, max_queue=4)
    streams = [scheduler.submit(request(0)), scheduler.submit(request(1))]
    gate.reached()
    closing = threading.Thread(target=scheduler.close, args=(drain,))
    closing.start()
    while not scheduler.is_closing:
        pass
    with pytest.raises(RefusedError) as caught:
        scheduler.submit(request(2))
    assert caught.value.code == "infer.closed"
    gate.open()
    closing.join(60)
    reasons = [stream.result()[1].finish_reason for stream in streams]
    assert reasons == (["length"] * 2 if drain else ["cancelled"] * 2)
    assert not scheduler.stats().is_alive
    scheduler.close()


def test_adapters_and_base_are_answered_at_once(
    tiny_llama_folder: Path, tmp_path: Path, adapter_of: Callable[..., Path], make: Callable[..., Scheduler]
) -> None:
    engine = open_engine(tiny_llama_folder, device="cpu")
    names = ("one", "two")
    for seed, name in enumerate(names):
        engine.load_adapter(name, adapter_of(tmp_path / name, tiny_llama_folder, seed=seed, template="llama2"))
    wanted: dict[tuple[str | None, int], str] = {}
    for adapter in (None, *names):
        engine.use(adapter)
        for number in range(4):
            wanted[adapter, number] = engine.answer(request(number).messages, request(number).params).text
    assert len({wanted[adapter, 1] for adapter in (None, *names)}) == 3
    scheduler = make(engine, max_batch=5)
    streams: dict[tuple[str | None, int], Stream] = {
        key: scheduler.submit(replace(request(key[1]), adapter=key[0])) for key in sorted(wanted, key=str)
    }
    assert {key: stream.result()[0] for key, stream in streams.items()} == wanted
    with pytest.raises(RefusedError) as caught:
        scheduler.submit(replace(request(0), adapter="three"))
    assert caught.value.code == "infer.no-adapter"


def test_a_prompt_of_ids_goes_on_where_it_ends(llama: Engine, make: Callable[..., Scheduler]) -> None:
    scheduler = make(llama)
    ids = tuple(llama.text_ids("今天天气"))
    marks = llama.encoder.marks
    assert llama.text_ids(marks.eos)[1:] != [llama.encoder.tokenizer.eos_token_id]  # typed text is no control token
    stream = scheduler.submit(Request(prompt=ids, params=SamplingParams(max_tokens=6, logprobs=1)))
    events: list[Event] = list(stream)
    scores = [score for event in events if isinstance(event, Token) for score in event.logprobs]
    assert len(scores) == 6
    assert b"".join(score.piece for score in scores).decode("utf-8", "ignore")
    assert all(score.top[0][0] == score.id and score.top[0][2] == pytest.approx(score.value) for score in scores)
    assert all(score.piece == llama.piece(score.id) for score in scores)


def test_what_cannot_be_answered_is_refused_at_once(llama: Engine, make: Callable[..., Scheduler]) -> None:
    scheduler = make(llama)
    with pytest.raises(RefusedError) as caught:
        scheduler.submit(Request(prompt=tuple(range(3, 600))))
    assert caught.value.code == "infer.prompt-too-long"
    assert "597" in caught.value.message
    with pytest.raises(RefusedError):
        scheduler.submit_all([request(0), request(0, max_tokens=1), Request(prompt=(1,) * 600)])
    assert scheduler.stats().submitted == 0


@pytest.mark.parametrize("steps", range(6))
def test_cancelling_at_any_step_frees_the_place_within_one(
    llama: Engine, make: Callable[..., Scheduler], steps: int
) -> None:
    """The prompt is read in the first call; the call under way when it is cancelled is its last."""
    gate, scheduler = Gate(llama.model), make(llama, max_batch=1, max_queue=4)
    first = scheduler.submit(request(0, max_tokens=400))
    gate.reached()
    for _ in range(steps):
        gate.step()
        gate.reached()
    scheduler.cancel(first)
    second = scheduler.submit(request(2, max_tokens=1))
    gate.step()
    gate.reached()  # the next call is already the second's prompt
    assert scheduler.stats().running == 1
    assert gate.calls == steps + 2
    gate.open()
    assert (first.result()[1].finish_reason, second.result()[1].completion_tokens) == ("cancelled", 1)


@pytest.mark.parametrize("length", [1, 2, 5])
def test_a_stop_string_never_shows_however_tokens_cut_it(
    engine: Engine, make: Callable[..., Scheduler], length: int
) -> None:
    adapter = engine.adapters[0] if engine.adapters else None
    scheduler = make(engine)
    asked = replace(request(1, max_tokens=24), adapter=adapter)
    whole = scheduler.submit(asked).result()[0]
    middle = len(whole) // 2
    stop = whole[middle : middle + length]
    stream = scheduler.submit(replace(asked, params=replace(asked.params, stops=(stop,))))
    *tokens, done = list(stream)
    assert isinstance(done, Done)
    assert "".join(token.text for token in tokens if isinstance(token, Token)) == whole[: whole.find(stop)].rstrip()
    assert done.finish_reason == "stop"


@pytest.mark.parametrize("count", [60, pytest.param(2500, marks=pytest.mark.slow)])
def test_memory_does_not_grow_with_requests(lora: Engine, make: Callable[..., Scheduler], count: int) -> None:
    """Tensors alive and Python's own blocks, after a warm-up and after many requests of every kind."""
    lora.prefixes = PrefixStore(2**18)
    scheduler = make(lora, max_batch=4, max_queue=64)

    def ask(number: int) -> None:
        asked = replace(request(number, max_tokens=1 + number % 3, logprobs=2), adapter=lora.adapters[0])
        streams = scheduler.submit_all([asked, replace(request(number), adapter=None)])
        if number % 5 == 0:
            scheduler.cancel(streams[1])
        for stream in streams:
            stream.result()

    def held() -> tuple[int, int, int]:
        gc.collect()
        tensors = [each for each in gc.get_objects() if issubclass(type(each), torch.Tensor)]
        return len(tensors), sum(tensor.nbytes for tensor in tensors), sys.getallocatedblocks()

    for number in range(40):
        ask(number)
    before = held()
    for number in range(count):
        ask(number)
    after = held()
    assert scheduler.stats().finished.get("error", 0) == 0
    assert after[0] <= before[0] + 8
    assert after[1] <= 1.03 * before[1]
    assert after[2] <= 1.01 * before[2]
