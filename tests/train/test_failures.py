"""What goes wrong in a run, injected: it stops with a code and keeps what is good, or it goes on as if nothing were."""

from __future__ import annotations

import math
import shlex
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hantune.cli import main
from hantune.errors import HantuneError, Interrupted, TrainError
from hantune.log import read_events
from hantune.paths import RunFolder
from hantune.report.page import write_report
from hantune.train import checkpoint as checkpoints
from hantune.train.loop import Loop
from hantune.train.run import resume, train
from hantune.train.step import Stepper
from tests.runs import small_config
from tests.train.test_loop import make_loop, weights


class Passes:
    """Counts the forward passes of training and does what a failure does at the chosen ones."""

    def __init__(self, model: Any, act: Callable[[int, Any], Any]) -> None:
        self.count = 0
        self._act = act
        model.model.register_forward_hook(self._hook)

    def _hook(self, module: Any, inputs: Any, output: Any) -> Any:
        if not torch.is_grad_enabled():
            return None
        self.count += 1
        return self._act(self.count, output)


def not_a_number(at: int) -> Callable[[int, Any], Any]:
    """One micro-batch whose result is NaN."""

    def act(count: int, output: Any) -> None:
        if count == at:
            output[0].data.fill_(math.nan)

    return act


def no_memory(*at: int) -> Callable[[int, Any], Any]:
    def act(count: int, output: Any) -> None:
        if count in at:
            raise torch.OutOfMemoryError("CUDA out of memory")

    return act


def no_memory_and_a_signal(at: int) -> Callable[[int, Any], Any]:
    def act(count: int, output: Any) -> None:
        if count == at:
            signal.raise_signal(signal.SIGTERM)
            raise MemoryError

    return act


FAILURES = {
    "NaN early": (not_a_number(4), not_a_number(4)),
    "NaN late": (not_a_number(15), not_a_number(15)),
    "memory once": (no_memory(7), no_memory(7)),
    "memory twice in a step": (no_memory(7, 8), no_memory(7, 8)),
    "memory and SIGTERM": (no_memory(9), no_memory_and_a_signal(9)),
}
"""What happens to the run that goes through, and to the one that is stopped."""


@pytest.mark.parametrize("name", FAILURES)
def test_after_a_failure_a_run_that_is_stopped_and_resumed_ends_as_one_that_is_not(
    tmp_path: Path, tiny_llama: Callable[..., Any], sp_tokenizer: Any, name: str
) -> None:
    def fresh(folder: str) -> tuple[Any, Loop]:
        model = tiny_llama(sp_tokenizer, attention_dropout=0.1)
        loop, _ = make_loop(
            tmp_path / folder, model, epochs=2, accumulation_steps=2, save_every_steps=1, batching="sorted"
        )
        loop.room.try_largest = lambda step: None  # type: ignore[method-assign]
        return model, loop

    def to_the_end(folder: str, act: Callable[[int, Any], Any], stop_after: int | None) -> Any:
        done = 0
        while True:
            model, loop = fresh(folder)
            passes = Passes(model, lambda count, output, done=done: act(count + done, output))
            loop._report = lambda values, step: signal.raise_signal(signal.SIGTERM) if step == stop_after else None
            checkpoint = checkpoints.newest_checkpoint(RunFolder(tmp_path / folder))
            if checkpoint is not None:
                loop.restore(checkpoint)
            try:
                loop.train()
                break
            except Interrupted:
                done += passes.count
        steps = read_events(tmp_path / folder / "events.jsonl", "step")
        assert [event["step"] for event in steps] == list(range(1, loop.plan.total_steps + 1))
        return weights(model), [(repr(event["loss"]), repr(event["grad_norm"])) for event in steps]

    through, stopped_too = FAILURES[name]
    whole, told = to_the_end("whole", through, None)
    for stop_after in (1, 4):
        stopped, told_too = to_the_end(str(stop_after), stopped_too, stop_after)
        assert told_too == told
        assert all(torch.equal(weight, stopped[key]) for key, weight in whole.items())
    assert all(bool(weight.isfinite().all()) for weight in whole.values())


# ---- whole runs -----------------------------------------------------------------------------------------------------


def blows_up_after(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """From this step on the weights are thrown about."""
    honest = Stepper.train

    def train_wildly(self: Stepper, batches: Any, **place: Any) -> Any:
        result = honest(self, batches, **place)
        if place["step"] >= step:
            with torch.no_grad():
                for parameter in self.parameters.values():
                    parameter.mul_(1.5)
        return result

    monkeypatch.setattr(Stepper, "train", train_wildly)


def test_a_diverged_run_leaves_the_result_of_its_last_good_checkpoint(
    tiny_llama_folder: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blows_up_after(30, monkeypatch)
    config = small_config(
        tiny_llama_folder, prepared, tmp_path / "run",
        train__max_steps=120, train__epochs=40, train__save_every_steps=4, train__batch_size=8, eval__every_steps=1000,
        adapter__kind="none", train__learning_rate=1e-3,
    )  # fmt: skip
    with pytest.raises(TrainError) as caught:
        train(config)
    assert caught.value.code == "train.diverged"
    run = RunFolder(tmp_path / "run")
    (stop,) = read_events(run.events, "stop")
    assert (stop["code"], stop["hint"]) == (caught.value.code, caught.value.hint)
    newest = checkpoints.newest_checkpoint(run)
    assert newest is not None
    assert newest.step <= 32, "no state that may be bad is kept as the newest"
    assert f"第 {newest.step} 步" in caught.value.message
    good, kept = newest.tensors("weights"), load_file(run.model / "model.safetensors")
    assert all(torch.equal(weight, good[name]) for name, weight in kept.items())
    page = write_report(run).read_text(encoding="utf-8")
    assert caught.value.message.split(",")[0] in page
    with pytest.raises(HantuneError) as again:
        resume(run.root)
    assert again.value.as_dict() == caught.value.as_dict(), "it knows its last good checkpoint as before"


def test_asked_to_warn_only_it_trains_to_the_end(
    tiny_llama_folder: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hantune.train.guards.UPDATES_TO_MOVE", 3)
    config = small_config(
        tiny_llama_folder, prepared, tmp_path / "run",
        train__max_steps=5, train__learning_rate=1e-30, train__guards="warn", adapter__kind="none",
    )  # fmt: skip
    assert train(config).steps == 5
    (told,) = read_events(tmp_path / "run" / "events.jsonl", "warning")
    assert (told["code"], told["step"]) == ("train.not-learning", 3)
    with pytest.raises(TrainError) as caught:
        train(config.model_copy(update={"train": config.train.model_copy(update={"guards": "stop"})}))
    assert caught.value.code == "train.not-learning"
    assert "1e-30" in caught.value.message
    words = shlex.split(caught.value.hint or "")
    assert words[0] == "hantune"
    assert main([*words[1:], "--quiet"]) == 0, "what it tells works as it stands"
