"""What must train identically does, 1 x 8 = 8 x 1, resumed = uninterrupted; what is saved, told and restored."""

from __future__ import annotations

import errno
import json
import random
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hantune.config.schema import RunConfig, TrainSection
from hantune.data.batch import collate
from hantune.data.types import Example
from hantune.errors import Interrupted, MachineError
from hantune.log import EventLog, read_events
from hantune.models.loss import supervised_nats
from hantune.paths import RunFolder
from hantune.train import checkpoint as checkpoints
from hantune.train.floor import Floor, Work
from hantune.train.loop import Loop
from hantune.train.meter import Meter
from hantune.train.optim import learning_rate_at
from hantune.train.parallel import make_accelerator
from hantune.train.plan import continued, make_plan
from hantune.train.precision import choose_precision
from hantune.train.probe_plan import ProbePlan
from hantune.train.trainer_log import FILE, TrainerLog
from hantune.train.watchdog import WINDOW

CPU = torch.device("cpu")


class Chats:
    """Random examples of different lengths: a prompt that is not learned, an answer that is."""

    def __init__(self, count: int = 24, vocabulary: int = 300, seed: int = 0) -> None:
        draw = np.random.default_rng(seed)
        self.examples = []
        for length in draw.integers(4, 40, size=count):
            prompt = int(draw.integers(1, length - 1))
            ids = tuple(int(i) for i in draw.integers(4, vocabulary, size=length))
            self.examples.append(Example(ids=ids, mask=(0,) * prompt + (1,) * (int(length) - prompt)))
        self.lengths = np.array([len(example.ids) for example in self.examples])
        self.characters = self.lengths

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Example:
        return self.examples[index]


@pytest.fixture
def model(tiny_llama: Callable[..., Any], sp_tokenizer: Any) -> Any:
    return tiny_llama(sp_tokenizer)


def test_packed_documents_leak_with_hf_cache_and_not_here(model: Any) -> None:
    """HF's packed path with its default ``use_cache`` lets documents see each other without a word (notes, cpu)."""
    first, second, other = Chats(3).examples
    position = len(first.ids)

    def logits(lead: Example, **settings: Any) -> Tensor:
        batch = collate([lead, second], layout="packed", pad_id=3)
        with torch.no_grad():
            return model(batch.tokens_BT, position_ids=batch.positions_BT, **settings).logits[0, -len(second.ids) :]

    lead = Example(ids=other.ids[:position] + first.ids[len(other.ids[:position]) :], mask=first.mask)
    assert torch.equal(logits(first, use_cache=False), logits(lead, use_cache=False))
    assert not torch.allclose(logits(first), logits(lead)), "transformers mended its default: the guard may go"
    alone = collate([second], layout="packed", pad_id=3)
    packed = collate([first, second], layout="packed", pad_id=3)
    with torch.no_grad():
        together = supervised_nats(model, packed)[0] - supervised_nats(
            model, collate([first], layout="packed", pad_id=3)
        )[0]
        assert float(together) == pytest.approx(float(supervised_nats(model, alone)[0]), rel=1e-5)


def make_loop(
    folder: Path,
    model: Any,
    *,
    samples: Chats | None = None,
    evaluate: Any = None,
    state: dict[str, Any] | None = None,
    **settings: Any,
) -> tuple[Loop, EventLog]:
    """A loop over random chats, on the CPU in float32. ``state``: of the checkpoint from which it is to go on."""
    config = RunConfig(train=TrainSection(**({"batch_size": 4, "epochs": 1, "learning_rate": 1e-2} | settings)))
    samples = samples or Chats()
    plan = make_plan(config, num_samples=len(samples), num_val=0, can_pack=True)
    run = RunFolder(folder)
    run.root.mkdir(parents=True, exist_ok=True)
    precision = choose_precision("float32", CPU, is_adapter=False, num_parameters=1)
    events = EventLog(run.events)
    loop = Loop(
        model=model,
        samples=samples,
        plan=continued(plan, config, samples.lengths, state),
        section=config.train,
        pad_id=3,
        accelerator=make_accelerator(CPU, precision),
        run=run,
        events=events,
        answers=EventLog(run.samples),
        trainer_log=TrainerLog(run.root / FILE),
        evaluate=evaluate or (lambda step: None),
    )
    return loop, events


def weights(model: Any) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("batching", ["sorted", "packed"])
@pytest.mark.parametrize("other", [{"batch_size": 1, "accumulation_steps": 8}, {"batch_size": 8, "batch_tokens": 60}])
def test_a_step_of_eight_is_the_same_however_it_is_cut(
    tmp_path: Path, tiny_llama: Callable[..., Any], sp_tokenizer: Any, batching: str, other: dict[str, Any]
) -> None:
    results = []
    for number, settings in enumerate(({"batch_size": 8}, other)):
        model = tiny_llama(sp_tokenizer)
        settings = {"batching": batching, "learning_rate": 1e-3, **settings}
        loop, _ = make_loop(tmp_path / str(number), model, max_steps=2, **settings)
        loop.train()
        events = read_events(tmp_path / str(number) / "events.jsonl", "step")
        results.append((weights(model), [event["loss"] for event in events]))
    assert results[0][1] == pytest.approx(results[1][1], rel=1e-5)
    for name, weight in results[0][0].items():
        torch.testing.assert_close(weight, results[1][0][name], rtol=1e-4, atol=5e-5)  # Adam lifts rounding


def test_training_lowers_the_loss_and_evaluates_and_saves(tmp_path: Path, model: Any) -> None:
    asked: list[int] = []

    def evaluate(step: int) -> float:
        asked.append(step)
        return {0: 9.0, 2: 3.0, 4: 2.0, 6: 5.0}.get(step, 4.0)

    loop, _ = make_loop(tmp_path, model, evaluate=evaluate, save_every_steps=3, epochs=2, keep_checkpoints=2)
    loop.train()
    losses = [event["loss"] for event in read_events(tmp_path / "events.jsonl", "step")]
    assert losses[-1] < losses[0]
    assert asked[0] == 0
    assert asked[-1] == loop.plan.total_steps
    assert loop.best.step in asked
    assert (tmp_path / "checkpoints" / "best").read_text(encoding="utf-8").strip() == f"step-{loop.best.step:06d}"


def test_the_best_state_is_saved_also_where_questions_are_asked(tmp_path: Path, model: Any) -> None:
    loop, _ = make_loop(tmp_path, model, evaluate=lambda step: 1.0 if step == 2 else 5.0, save_every_steps=100)
    loop.plan = replace(loop.plan, eval_every=2, probes=ProbePlan(steps=(2,)))
    loop.train()
    assert (tmp_path / "checkpoints" / "best").read_text(encoding="utf-8") == "step-000002\n"


def test_a_signal_saves_and_the_resumed_run_is_bit_identical(
    tmp_path: Path, tiny_llama: Callable[..., Any], sp_tokenizer: Any
) -> None:
    def fresh(folder: Path, stop_at: int | None = None) -> tuple[Any, Loop]:
        model = tiny_llama(sp_tokenizer, attention_dropout=0.1)
        evaluate = (lambda step: signal.raise_signal(signal.SIGTERM) if step == stop_at else None) if stop_at else None
        loop, _ = make_loop(folder, model, evaluate=evaluate, epochs=2, accumulation_steps=2, save_every_steps=100)
        return model, loop

    whole, loop = fresh(tmp_path / "whole")
    loop.train()
    _, loop = fresh(tmp_path / "cut", stop_at=2)
    with pytest.raises(Interrupted) as caught:
        loop.train()
    assert caught.value.exit_code == 143
    resumed, loop = fresh(tmp_path / "cut")
    checkpoint = checkpoints.newest_checkpoint(RunFolder(tmp_path / "cut"))
    assert checkpoint is not None
    torch.manual_seed(99)  # another process has drawn otherwise
    loop.restore(checkpoint)
    assert loop.step == loop.good_step == 2
    assert loop.guards.state() == checkpoint.state["guards"]
    loop.train()
    for name, weight in weights(whole).items():
        assert torch.equal(weight, weights(resumed)[name]), name

    def story(folder: str) -> list[tuple[Any, ...]]:
        steps = read_events(tmp_path / folder / "events.jsonl", "step")
        return [(e["step"], e["loss"], e["learning_rate"], e["grad_norm"]) for e in steps]

    assert story("whole") == story("cut")


def cut_at(step: int, folder: Path, model: Any, **settings: Any) -> tuple[checkpoints.Checkpoint, list[int]]:
    """The checkpoint of a run that a signal ended after ``step``, and the samples it had trained."""
    loop, _ = make_loop(
        folder, model, evaluate=lambda now: signal.raise_signal(signal.SIGTERM) if now == step else None, **settings
    )
    seen = watched(loop)
    with pytest.raises(Interrupted):
        loop.train()
    checkpoint = checkpoints.newest_checkpoint(RunFolder(folder))
    assert checkpoint is not None
    assert checkpoint.step == step
    return checkpoint, seen


def watched(loop: Loop) -> list[int]:
    """Grows by the samples of every batch that is trained."""
    seen: list[int] = []
    train = loop.stepper.train

    def watch(batches: Any, **more: Any) -> Any:
        seen.extend(index for batch in batches for index in batch.indices)
        return train(batches, **more)

    loop.stepper.train = watch  # type: ignore[method-assign]
    return seen


@pytest.mark.parametrize(
    "other",
    [
        {"batch_size": 2, "accumulation_steps": 1},
        {"batch_size": 3, "accumulation_steps": 5},
        {"batch_size": 8, "accumulation_steps": 1, "batching": "packed"},
    ],
)
def test_a_resumed_run_may_take_other_batches_and_sees_every_sample_once_an_epoch(
    tmp_path: Path, tiny_llama: Callable[..., Any], sp_tokenizer: Any, other: dict[str, Any]
) -> None:
    settings = {"epochs": 2, "accumulation_steps": 2}
    checkpoint, seen = cut_at(2, tmp_path, tiny_llama(sp_tokenizer), **settings, save_every_steps=2)
    model = tiny_llama(sp_tokenizer)
    loop, _ = make_loop(tmp_path, model, state=checkpoint.state, **(settings | other))
    loop.restore(checkpoint)
    again = watched(loop)
    loop.train()
    in_order = seen + again
    assert sorted(in_order[:24]) == sorted(in_order[24:]) == list(range(24))
    rates = [event["learning_rate"] for event in read_events(tmp_path / "events.jsonl", "step")]
    assert rates[2:] == sorted(rates[2:], reverse=True), "it goes on where it stood"
    assert len(rates) == loop.plan.total_steps


def test_the_same_samples_cut_otherwise_are_the_same_run(
    tmp_path: Path, tiny_llama: Callable[..., Any], sp_tokenizer: Any
) -> None:
    losses = []
    settings = {"epochs": 2, "learning_rate": 1e-3}
    for name, other in (("same", {}), ("cut", {"batch_size": 2, "accumulation_steps": 4})):
        started = settings | {"batch_size": 8}
        checkpoint, _ = cut_at(2, tmp_path / name, tiny_llama(sp_tokenizer), **started)
        loop, _ = make_loop(tmp_path / name, tiny_llama(sp_tokenizer), state=checkpoint.state, **(started | other))
        loop.restore(checkpoint)
        loop.train()
        losses.append([event["loss"] for event in read_events(tmp_path / name / "events.jsonl", "step")])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_each_checkpoint_is_told_once_and_only_when_it_is_there(
    tmp_path: Path, tiny_llama: Callable[..., Any], sp_tokenizer: Any
) -> None:
    checkpoint, _ = cut_at(4, tmp_path, tiny_llama(sp_tokenizer), save_every_steps=1)
    run = RunFolder(tmp_path)
    assert [event["step"] for event in read_events(run.events, "checkpoint")] == [1, 2, 3, 4]
    shutil.rmtree(run.checkpoints / "step-000004")
    older = checkpoints.newest_checkpoint(run)
    assert older is not None
    loop, _ = make_loop(tmp_path, tiny_llama(sp_tokenizer), save_every_steps=1, state=older.state)
    loop.restore(older)
    assert [event["step"] for event in read_events(run.events, "checkpoint")] == [1, 2, 3]
    loop.train()
    assert [event["step"] for event in read_events(run.events, "checkpoint")] == list(range(1, loop.step + 1))
    lines = [json.loads(line) for line in (run.root / FILE).read_bytes().splitlines()]
    assert [line["current_steps"] for line in lines] == list(range(1, loop.step + 1))


def test_a_resumed_run_that_is_stopped_at_once_leaves_what_is_there(
    tmp_path: Path, tiny_llama: Callable[..., Any], sp_tokenizer: Any
) -> None:
    checkpoint, _ = cut_at(2, tmp_path, tiny_llama(sp_tokenizer))
    loop, _ = make_loop(tmp_path, tiny_llama(sp_tokenizer), state=checkpoint.state)
    loop.restore(checkpoint)
    loop.room.try_largest = lambda step: signal.raise_signal(signal.SIGTERM)  # type: ignore[method-assign]
    with pytest.raises(Interrupted):
        loop.train()
    assert [event["step"] for event in read_events(tmp_path / "events.jsonl", "checkpoint")] == [2]


def test_a_checkpoint_is_told_at_the_next_step_after_it_is_there(tmp_path: Path, model: Any) -> None:
    def write_to_the_end(step: int) -> None:
        if loop._saver._writer is not None:
            loop._saver._writer.join()

    loop, _ = make_loop(tmp_path, model, evaluate=write_to_the_end, save_every_steps=2)
    loop.plan = replace(loop.plan, eval_every=1)
    loop.train()
    story = [(event["event"], event["step"]) for event in read_events(tmp_path / "events.jsonl")]
    assert story.index(("checkpoint", 2)) + 1 == story.index(("step", 4))


def test_the_last_checkpoint_is_written_without_a_copy(
    tmp_path: Path, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(checkpoints.Snapshot, "apart")
    loop, _ = make_loop(tmp_path, model, save_every_steps=100)
    loop.train()
    assert (tmp_path / "checkpoints" / "last").read_text(encoding="utf-8") == "step-000006\n"


def test_a_run_that_stays_suspect_is_saved_in_the_end(tmp_path: Path, model: Any) -> None:
    loop, _ = make_loop(tmp_path, model, save_every_steps=3)
    loop.guards.bad_steps = 1
    for step in range(1, 3 + WINDOW):
        loop.step = step
        assert not loop._is_save_due()
    loop.step += 1
    assert loop._is_save_due()


def test_a_state_that_may_be_bad_is_not_counted_as_good(tmp_path: Path, model: Any) -> None:
    loop, _ = make_loop(tmp_path, model)
    for step, bad_steps, good in ((1, 0, 1), (2, 1, 1), (3, 0, 3)):
        loop.step, loop.guards.bad_steps = step, bad_steps
        loop.save(wait=True)
        assert loop.good_step == good


def test_steps_have_the_rates_of_the_schedule_and_the_last_one_is_always_told(tmp_path: Path, model: Any) -> None:
    loop, _ = make_loop(tmp_path, model)
    loop._log_every = 4
    loop.train()
    told = {event["step"]: event["learning_rate"] for event in read_events(tmp_path / "events.jsonl", "step")}
    assert told == {step: learning_rate_at(step - 1, 6, TrainSection(learning_rate=1e-2)) for step in (4, 6)}


def test_the_first_evaluation_says_what_to_expect_and_none_leaves_its_mode(tmp_path: Path, model: Any) -> None:
    loop, _ = make_loop(tmp_path, model, evaluate=lambda step: model.eval() and 9.0 - step)
    expected: list[float] = []
    loop.guards.expect = expected.append  # type: ignore[method-assign]
    loop.train()
    assert (expected, model.training) == ([9.0], True)


def test_a_disk_that_fills_up_behind_the_run_stops_it_at_the_next_step(
    tmp_path: Path, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = checkpoints.save_file

    def save(tensors: Any, path: Path) -> None:
        if "step-000003" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device")
        write(tensors, path)

    monkeypatch.setattr(checkpoints, "save_file", save)
    loop, _ = make_loop(tmp_path, model, save_every_steps=1, epochs=3)
    with pytest.raises(MachineError) as caught:
        loop.train()
    assert caught.value.code == "machine.disk-full"
    newest = checkpoints.newest_checkpoint(RunFolder(tmp_path))
    assert newest is not None
    assert newest.step == 2
    assert loop.step < loop.plan.total_steps


def test_training_draws_from_no_other_generator(
    tmp_path: Path, tiny_llama: Callable[..., Any], sp_tokenizer: Any
) -> None:
    """A checkpoint keeps torch's generators; Python's and numpy's would have to be kept too if they were used."""
    loop, _ = make_loop(tmp_path, tiny_llama(sp_tokenizer, attention_dropout=0.1), max_steps=2, batching="packed")
    before = random.getstate(), np.random.get_state()  # noqa: NPY002
    loop.train()
    after = random.getstate(), np.random.get_state()  # noqa: NPY002
    assert before[0] == after[0]
    assert all(np.array_equal(one, other) for one, other in zip(before[1], after[1], strict=True))


def test_steps_tell_speed_share_memory_and_what_is_left(tmp_path: Path, model: Any) -> None:
    loop, _ = make_loop(tmp_path, model)
    loop.meter = Meter(Floor(work=Work(token=4.0, label=2.0, pair=1.0, shape=(1, 1)), rate=1e6))
    loop.train()
    for event in read_events(tmp_path / "events.jsonl", "step"):
        assert event["tokens_per_second"] > event["supervised_per_second"] > 0
        assert event["matmul_share"] > 0
        assert 0 < event["memory"] <= event["memory_peak"]
    assert event["seconds_left"] == 0
    squares = [step.flop - 4 * step.tokens - 2 * step.supervised for step in loop.meter._recent]
    assert squares == [loop._feed.squares_of_step(step) for step in range(6)]
    samples = Chats()
    assert loop.meter.flop == 4 * loop.meter.tokens + 2 * loop.meter.supervised + int((samples.lengths**2).sum())
