"""A step that does not fit is the same step in smaller pieces, and the machine is asked before it is too late."""

from __future__ import annotations

import math
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hantune.errors import Interrupted, TrainError, is_out_of_memory
from hantune.log import read_events
from hantune.models.memory import steady_heap
from hantune.paths import RunFolder, quoted
from hantune.train import checkpoint as checkpoints
from hantune.train import room as room_module
from hantune.train.loop import Loop
from hantune.train.trial import Cost
from tests.train.test_loop import Chats, make_loop, weights

NO_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
HOST_IS_FULL = RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory")


class Memory:
    """A machine whose memory holds ``room`` positions: a larger forward pass of the model fails."""

    def __init__(self, model: Any, room: float, error: BaseException = NO_MEMORY) -> None:
        self.room = room
        self.error = error
        self.sizes: list[int] = []
        self.failures = 0
        self.then: Callable[[], object] = lambda: None
        self._hook = model.model.register_forward_hook(self._check, with_kwargs=True)

    def _check(self, module: Any, inputs: Any, kwargs: dict[str, Any], output: Any) -> None:
        size = kwargs["input_ids"].numel()
        if torch.is_grad_enabled():  # not the probe of the head
            self.sizes.append(size)
        if size > self.room:
            self.failures += 1
            self.then()
            raise self.error

    def remove(self) -> None:
        self._hook.remove()


@pytest.fixture(autouse=True)
def _inside_a_run() -> Iterator[None]:
    with steady_heap():
        yield


@pytest.fixture
def dropping(tiny_llama: Callable[..., Any], sp_tokenizer: Any) -> Callable[[], Any]:
    """Models that are the same and draw from the generator in every pass."""
    return lambda: tiny_llama(sp_tokenizer, attention_dropout=0.1)


def gradients_of_first_step(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, dict[str, Tensor]]:
    seen: dict[str, Tensor] = {}

    def take() -> None:
        seen.update({name: p.grad.clone() for name, p in loop.parameters.items() if p.grad is not None})

    monkeypatch.setattr(loop.stepper.optimizer, "step", take)
    return loop.room.train(0), seen


@pytest.mark.parametrize("batching", ["sorted", "packed"])
@pytest.mark.parametrize("error", [NO_MEMORY, HOST_IS_FULL, MemoryError()])
def test_a_step_in_pieces_has_the_loss_and_gradients_of_the_whole(
    tmp_path: Path, tiny_llama: Callable[..., Any], sp_tokenizer: Any, monkeypatch: pytest.MonkeyPatch,
    batching: str, error: BaseException,
) -> None:  # fmt: skip
    results = []
    for room in (math.inf, 60):
        model = tiny_llama(sp_tokenizer)
        memory = Memory(model, room, error)
        loop, _ = make_loop(tmp_path / str(room), model, batch_size=8, accumulation_steps=3, batching=batching)
        results.append(gradients_of_first_step(loop, monkeypatch))
    assert memory.failures > 0
    assert loop.room.most is not None
    assert max(memory.sizes[-3:]) <= 60
    (whole, expected), (pieces, found) = results
    assert pieces.loss == pytest.approx(whole.loss, rel=1e-5)
    assert pieces.grad_norm == pytest.approx(whole.grad_norm, rel=1e-5)
    assert (pieces.tokens, pieces.supervised) == (whole.tokens, whole.supervised)
    for name, gradient in expected.items():
        assert float((gradient - found[name]).norm()) <= 1e-5 * float(gradient.norm()), name


def test_a_retry_leaves_no_trace_but_the_cut(tmp_path: Path, dropping: Callable[[], Any]) -> None:
    """Failing, then cut = cut from the beginning, to the bit: random state and gradients of the failed try are gone."""
    model = dropping()
    memory = Memory(model, 70)
    loop, _ = make_loop(tmp_path / "fails", model, epochs=2, accumulation_steps=2)
    loop.train()
    assert memory.failures > 0
    knows = dropping()
    other, _ = make_loop(tmp_path / "knows", knows, epochs=2, accumulation_steps=2)
    other.room.most = loop.room.most
    other.train()
    assert all(torch.equal(weight, weights(knows)[name]) for name, weight in weights(model).items())
    told = read_events(tmp_path / "fails" / "events.jsonl", "warning")
    assert [event["most_positions"] for event in told][-1] == loop.room.most
    assert {event["code"] for event in told} == {"train.out-of-memory"}
    assert len(told) == memory.failures


@pytest.mark.parametrize("in_retry", [False, True])
def test_a_resumed_run_keeps_the_cut(tmp_path: Path, dropping: Callable[[], Any], in_retry: bool) -> None:
    """Also when SIGTERM comes in the middle of a retry, and though memory is plenty after the resume."""

    def fresh(folder: str, **settings: Any) -> tuple[Any, Loop]:
        model = dropping()
        loop, _ = make_loop(tmp_path / folder, model, samples=Growing(), epochs=2, accumulation_steps=2, **settings)
        return model, loop

    whole, loop = fresh("whole")
    Memory(whole, 90)
    loop.train()
    model, loop = fresh("cut")
    memory = Memory(model, 90)

    def stop() -> None:
        memory.then = lambda: None
        signal.raise_signal(signal.SIGTERM)

    if in_retry:
        memory.then = stop
    else:
        model.model.register_forward_hook(lambda *_: stop() if len(memory.sizes) == 12 else None)
    with pytest.raises(Interrupted):
        loop.train()
    assert memory.failures > 0
    resumed, loop = fresh("cut")
    checkpoint = checkpoints.newest_checkpoint(RunFolder(tmp_path / "cut"))
    assert checkpoint is not None
    loop.restore(checkpoint)
    loop.train()
    assert all(torch.equal(weight, weights(resumed)[name]) for name, weight in weights(whole).items())


class Growing(Chats):
    """Chats whose lengths are spread wide."""

    def __init__(self) -> None:
        super().__init__(24, seed=3)


def test_a_sample_that_does_not_fit_ends_with_its_place_and_a_remedy(tmp_path: Path, dropping: Any) -> None:
    model = dropping()
    Memory(model, 30)
    loop, _ = make_loop(tmp_path, model)
    loop._feed.sources = lambda samples: [f"chats.jsonl:{index + 1}" for index in samples]  # type: ignore[method-assign]
    before = weights(model)
    with pytest.raises(TrainError) as caught:
        loop.train()
    error = caught.value
    longest = int(Chats().lengths.max())
    assert error.code == "train.out-of-memory"
    assert error.place == f"chats.jsonl:{int(Chats().lengths.argmax()) + 1}"
    assert str(longest) in error.message
    assert error.hint == f"hantune resume {quoted(tmp_path)} train.activation_checkpointing=true"
    model.gradient_checkpointing_enable()
    with pytest.raises(TrainError) as again:
        loop.room.try_largest(0)
    assert again.value.hint == f"hantune train {quoted(tmp_path / 'config.yaml')} data.max_tokens={longest // 2}"
    assert loop.step == 0
    assert all(torch.equal(weight, weights(model)[name]) for name, weight in before.items())


def test_an_optimiser_that_does_not_fit_says_so(tmp_path: Path, dropping: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    loop, _ = make_loop(tmp_path, dropping())

    def fail() -> None:
        raise NO_MEMORY

    monkeypatch.setattr(loop.stepper.optimizer, "step", fail)
    with pytest.raises(TrainError, match="优化器") as caught:
        loop.train()
    assert caught.value.code == "train.out-of-memory"
    assert (caught.value.hint or "").endswith("config.yaml train.optimizer=adamw8bit")


def test_any_other_error_of_a_step_is_not_swallowed(tmp_path: Path, dropping: Any) -> None:
    model = dropping()
    Memory(model, 0, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    loop, _ = make_loop(tmp_path, model)
    with pytest.raises(RuntimeError, match="mat1"):
        loop.train()


def test_memory_that_fails_at_random_changes_nothing_but_the_cut(
    tmp_path: Path, tiny_llama: Callable[..., Any], sp_tokenizer: Any
) -> None:
    """Also in the backward pass."""
    settings: dict[str, Any] = {"max_steps": 3, "accumulation_steps": 2, "learning_rate": 1e-4}
    loop, _ = make_loop(tmp_path / "clean", tiny_llama(sp_tokenizer), **settings)
    loop.train()
    expected = [event["loss"] for event in read_events(tmp_path / "clean" / "events.jsonl", "step")]
    for seed in range(4):
        model, draw = tiny_llama(sp_tokenizer), random.Random(seed)

        def fail(module: Any, *inputs: Any, draw: random.Random = draw) -> None:
            sizes = inputs[-1][0].shape if isinstance(inputs[-1], tuple) else inputs[-1].shape
            if sizes[0] > 1 and draw.random() < 0.3:
                raise NO_MEMORY

        if seed % 2:
            model.model.layers[0].register_forward_hook(fail)
        else:
            model.model.layers[1].register_full_backward_hook(fail)
        loop, _ = make_loop(tmp_path / str(seed), model, **settings)
        loop.train()
        losses = [event["loss"] for event in read_events(tmp_path / str(seed) / "events.jsonl", "step")]
        assert losses == pytest.approx(expected, rel=1e-5)


# ---- before the first step ----------------------------------------------------------------------------------------


def test_a_run_is_the_same_to_the_bit_with_and_without_the_trial(
    tmp_path: Path, dropping: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = []
    for name, attempt in (("with", room_module.Room.try_largest), ("without", lambda room, step: None)):
        monkeypatch.setattr(room_module.Room, "try_largest", attempt)
        monkeypatch.setattr(room_module.Room, "_comes_soon", lambda *_: False)
        model = dropping()
        memory = Memory(model, math.inf)
        loop, _ = make_loop(tmp_path / name, model, max_steps=3)
        loop.train()
        steps = [(e["loss"], e["grad_norm"]) for e in read_events(tmp_path / name / "events.jsonl", "step")]
        ends.append((weights(model), steps, len(memory.sizes)))
    assert ends[0][1] == ends[1][1]
    assert ends[0][2] == ends[1][2] + 2, "a quarter, then the whole"
    assert all(torch.equal(weight, ends[1][0][name]) for name, weight in ends[0][0].items())


def test_the_largest_batch_fails_before_the_first_step(tmp_path: Path, dropping: Any) -> None:
    model = dropping()
    loop, _ = make_loop(tmp_path, model)
    largest = loop._feed.largest().tokens_BT.numel()
    Memory(model, largest - 1)
    loop.room._comes_soon = lambda *_: False  # type: ignore[method-assign]
    loop.room.try_largest(0)
    assert loop.room.most == largest // 2
    (told,) = read_events(tmp_path / "events.jsonl", "warning")
    assert told["step"] == 1


def test_what_comes_soon_anyway_is_not_tried_first(tmp_path: Path, dropping: Any) -> None:
    model = dropping()
    memory = Memory(model, math.inf)
    loop, _ = make_loop(tmp_path, model, batch_size=24)
    loop.room.try_largest(0)
    largest = loop._feed.largest()
    assert memory.sizes == [loop._feed.collate(largest.indices[:6]).tokens_BT.numel()], "a quarter, as on every host"


def test_a_host_that_would_kill_is_not_asked_for_the_whole(
    tmp_path: Path, dropping: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux raises nothing: what is free is read, and held against a quarter of the batch."""
    model = dropping()
    memory = Memory(model, math.inf)
    loop, _ = make_loop(tmp_path, model, batch_size=8)
    batch = loop._feed.largest()
    loop.room._comes_soon = lambda *_: False  # type: ignore[method-assign]
    gradients = loop.stepper.gradient_bytes()

    def cost(model: Any, accelerator: Any, section: Any, batches: Any) -> Any:
        (tried,) = batches
        memory.sizes.append(tried.tokens_BT.numel())
        grown = gradients + tried.tokens_BT.numel() * 1000
        return [Cost(positions=tried.tokens_BT.numel(), num_tokens=1, seconds=1.0, peak_bytes=grown, grown_bytes=grown)]

    monkeypatch.setattr(room_module, "try_batches", cost)
    positions = batch.tokens_BT.numel()
    needed = positions * 1000 + 3 * gradients
    monkeypatch.setattr(room_module, "free_memory", lambda device: needed + 1000)
    loop.room.try_largest(0)
    assert (loop.room.most, memory.sizes[-1]) == (None, positions)
    memory.sizes.clear()
    monkeypatch.setattr(room_module, "free_memory", lambda device: needed - 1000)
    loop.room.try_largest(0)
    assert loop.room.most == positions // 2
    assert positions not in memory.sizes
    monkeypatch.setattr(room_module, "free_memory", lambda device: 2 * gradients)
    with pytest.raises(TrainError) as caught:
        loop.room.try_largest(0)
    assert caught.value.code == "train.out-of-memory"


def test_a_host_that_does_not_tell_is_trusted(tmp_path: Path, dropping: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room_module, "free_memory", lambda device: None)
    loop, _ = make_loop(tmp_path, dropping())
    loop.room.try_largest(0)
    assert loop.room.most is None


def test_who_waits_is_told_what_makes_the_step_long(
    tmp_path: Path, dropping: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, _ = make_loop(tmp_path, dropping())
    tokens = loop._feed.tokens_of_step(0)
    details = loop.room.describe(0)
    assert f"{tokens} 个词元" in details()
    assert "估计" not in details()
    loop.room.seconds_per_position = 100 / tokens
    monkeypatch.setattr(room_module, "free_memory", lambda device: 100 << 20)
    assert "1 分 40 秒" in details()
    assert "只剩 100 MB" in details()


def test_torch_says_that_memory_is_out_in_a_way_that_is_known() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(NO_MEMORY)
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("expected scalar type Half but found Float"))
    assert not is_out_of_memory(OSError("out of memory"))
