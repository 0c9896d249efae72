"""Guards stop a run for what they name, and for nothing else."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hantune.config.io import load_config
from hantune.config.schema import AdapterSection, TrainSection
from hantune.errors import TrainError
from hantune.log import read_events
from hantune.paths import RunFolder
from hantune.train import checkpoint as checkpoints
from hantune.train.guards import MAX_SPIKES_TOLD, UPDATES_TO_MOVE, Finding, Guards
from hantune.train.remedy import Remedy
from hantune.train.step import StepResult
from tests.train.test_loop import make_loop, weights


def result(loss: float = 2.0, norm: float = 1.0, **more: Any) -> StepResult:
    return StepResult(loss=loss, grad_norm=norm, tokens=1, supervised=1, **more)


BAD = result(math.nan)
REMEDY = Remedy(RunFolder(Path("runs/abc")))


def watching(*weight: float, **section: Any) -> tuple[Guards, nn.Parameter]:
    """Guards over one weight, before the first update."""
    parameter = nn.Parameter(torch.tensor(weight or (1.0, 2.0)))
    guards = Guards({"layer.lora_B.default.weight": parameter}, TrainSection(**section), REMEDY)
    guards.start()
    return guards, parameter


def see_all(guards: Guards, results: Iterable[StepResult], *, last_good: int = 0) -> list[Finding]:
    """What the guards have to tell of these steps."""
    return [
        finding
        for step, seen in enumerate(results, start=1)
        for finding in guards.see(step, seen, last_good=last_good)
    ]


def stopped_with(guards: Guards, results: list[StepResult], *, last_good: int = 4) -> TrainError:
    with pytest.raises(TrainError) as caught:
        see_all(guards, results, last_good=last_good)
    assert "第 4 步" in str(caught.value) or caught.value.code == "train.not-learning"
    command, settings = (caught.value.hint or "").split("runs/abc/config.yaml ")
    assert command == "hantune train "
    load_config(None, settings.split())
    return caught.value


# ---- figures that are not numbers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("setting", ["stop", "warn"])
def test_three_bad_steps_in_a_row_stop_the_run(setting: str) -> None:
    guards, _ = watching(guards=setting)
    for step, seen in enumerate((BAD, BAD, result(), BAD, BAD), start=1):
        assert guards.see(step, seen, last_good=0) == []
        assert guards.is_suspect is (seen is BAD)
    error = stopped_with(guards, [BAD])
    assert (error.code, error.place) == ("train.not-finite", "第 1 步")


def test_fp16_may_look_for_its_scale_as_long_as_it_comes_down() -> None:
    guards, _ = watching()
    for power in range(16, 0, -1):
        guards.see(1, result(norm=math.inf, scale=2.0**power), last_good=0)
        assert not guards.is_suspect
    assert stopped_with(guards, [result(norm=math.nan, scale=1.0)] * 3).code == "train.not-finite"
    guards, _ = watching()
    assert stopped_with(guards, [result(math.nan, scale=65536.0)] * 3).code == "train.not-finite"


@pytest.mark.parametrize(("is_float32", "change"), [(False, "train.precision=float32"), (True, "train.learning_rate=")])
def test_what_is_exact_already_is_not_told_to_be_exact(is_float32: bool, change: str) -> None:
    guards = Guards({"weight": nn.Parameter(torch.ones(2))}, TrainSection(), REMEDY, is_float32=is_float32)
    assert change in str(stopped_with(guards, [BAD] * 3).hint)


def test_before_the_first_checkpoint_none_is_promised() -> None:
    guards, _ = watching()
    with pytest.raises(TrainError, match="还没有检查点"):
        see_all(guards, [BAD] * 3, last_good=0)


# ---- losses -------------------------------------------------------------------------------------------------------


def test_a_diverged_run_stops_at_the_last_good_checkpoint() -> None:
    guards, parameter = watching(learning_rate=1e-3)
    parameter.data.add_(1)
    error = stopped_with(guards, [result()] * 30 + [result(11.0)] * 60)
    assert error.code == "train.diverged"
    assert "从 2.00 升到 11.00" in error.message
    assert "train.learning_rate=0.0005" in (error.hint or "")


def test_a_run_that_breaks_in_its_first_steps_is_held_against_the_held_out_loss() -> None:
    breaking = [result(2.5)] + [result(10.0)] * 60
    guards, parameter = watching()
    parameter.data.add_(1)
    assert see_all(guards, breaking) == [], "nothing tells that it was ever better"
    guards, parameter = watching()
    parameter.data.add_(1)
    guards.expect(2.3)
    assert stopped_with(guards, breaking).code == "train.diverged"


@pytest.mark.parametrize(("held_out", "first", "usual"), [(0.5, 4.0, 4.0), (4.0, 0.3, 4.5), (2.0, 2.0, 3.0)])
def test_dialogues_that_are_harder_than_the_held_out_ones_are_no_divergence(
    held_out: float, first: float, usual: float
) -> None:
    guards, parameter = watching()
    parameter.data.add_(1)
    guards.expect(held_out)
    assert see_all(guards, [result(first)] + [result(usual)] * 200) == []


def test_asked_only_to_warn_it_says_so_once() -> None:
    guards, parameter = watching(guards="warn")
    parameter.data.add_(1)
    found = see_all(guards, [result()] * 30 + [result(11.0)] * 60)
    assert [finding.code for finding in found] == ["train.diverged"]


# ---- gradients ----------------------------------------------------------------------------------------------------


def test_a_gradient_spike_is_told_with_the_lines_of_its_step_but_not_for_ever() -> None:
    guards, parameter = watching()
    parameter.data.add_(1)
    lines = [f"a.jsonl:{line}" for line in range(1, 9)]
    found: list[Finding] = []
    for step in range(1, 400):
        norm = 50.0 if step % 40 == 0 else 1.0
        found += guards.see(step, result(norm=norm), last_good=0, sources=lambda: lines)
    assert len(found) == MAX_SPIKES_TOLD
    assert found[0].code == "train.gradient-spike"
    assert "第 40 步" in found[0].text
    assert "a.jsonl:1, a.jsonl:2, a.jsonl:3 等 8 处" in found[0].text
    assert found[0].sources == lines


@pytest.mark.parametrize(("limit", "below", "above"), [(2.0, 1.9, 2.1), (None, 0.9, 1.1)])
def test_a_gradient_below_the_clip_is_no_spike(limit: float | None, below: float, above: float) -> None:
    guards, parameter = watching(max_grad_norm=limit)
    parameter.data.add_(1)
    assert [guards.see(step, result(norm=0.01), last_good=0) for step in range(1, 60)] == [[]] * 59
    assert guards.see(60, result(norm=below), last_good=0) == []
    assert [finding.code for finding in guards.see(61, result(norm=above), last_good=0)] == ["train.gradient-spike"]


# ---- weights ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("norm", "words", "remedy"), [(0.0, "梯度全是 0", "adapter.targets"), (1.0, "学习率", "learning_rate")]
)
def test_weights_that_do_not_move_stop_the_run(norm: float, words: str, remedy: str) -> None:
    guards, _ = watching()
    skipped = result(norm=math.inf, scale=2.0)
    for step in range(1, 50):
        guards.see(step, skipped, last_good=0)
    error = stopped_with(guards, [result(norm=norm)] * (UPDATES_TO_MOVE + 1))
    assert (error.code, error.place) == ("train.not-learning", f"第 {UPDATES_TO_MOVE} 步")
    assert words in error.message
    assert remedy in (error.hint or "")


def test_one_layer_that_does_not_move_is_told() -> None:
    moving, still = nn.Parameter(torch.ones(2)), nn.Parameter(torch.zeros(2))
    weights = {"a.lora_B.weight": moving, "b.lora_B.weight": still, "c.bias": nn.Parameter(torch.zeros(2))}
    guards = Guards(weights, TrainSection(), REMEDY)
    guards.start()
    moving.data.add_(1)
    found = see_all(guards, [result()] * 30)
    assert [finding.code for finding in found] == ["train.not-learning"]
    assert "b.lora_B.weight" in found[0].text
    assert "c.bias" not in found[0].text, "only B has to leave zero"


# ---- resumed ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [2, 9, 35, 50])
def test_restored_guards_judge_as_if_never_interrupted(cut: int) -> None:
    results = [BAD] + [result()] * 30 + [result(norm=99.0)] + [result()] * 10 + [BAD, BAD] + [result(11.0)] * 60

    def judge(guards: Guards, first: int, last: int) -> list[Any]:
        found: list[Any] = []
        try:
            for step in range(first, last):
                found += guards.see(step, results[step], last_good=0)
        except TrainError as error:
            found.append((error.code, error.place))
        return found

    whole, parameter = watching()
    parameter.data.add_(1)
    expected = judge(whole, 0, len(results))
    assert expected[-1][0] == "train.diverged"
    first, parameter = watching()
    parameter.data.add_(1)
    found = judge(first, 0, cut)
    second = Guards({"layer.lora_B.default.weight": parameter}, TrainSection(), REMEDY)
    second.restore(json.loads(json.dumps(first.state())))
    assert found + judge(second, cut, len(results)) == expected


def test_a_state_holds_all_that_changes() -> None:
    guards, parameter = watching(guards="warn")
    parameter.data.add_(1)
    see_all(guards, [result()] * 40 + [result(norm=99.0)] + [result(11.0)] * 60 + [BAD])
    guards.expect(3.0)
    state = guards.state()
    fresh, _ = watching()
    assert not [name for name, value in fresh.state().items() if value == state[name]]
    fresh.restore(json.loads(json.dumps(state)))
    assert fresh.state() == state


# ---- in the loop --------------------------------------------------------------------------------------------------


def test_a_learning_rate_that_blows_up_stops_and_the_last_checkpoint_is_a_good_one(
    tmp_path: Path, tiny_llama: Callable[..., Any], sp_tokenizer: Any
) -> None:
    model = tiny_llama(sp_tokenizer)
    loop, _ = make_loop(tmp_path, model, learning_rate=1e-3, epochs=30, save_every_steps=5, schedule="constant")

    def blow_up(step: int) -> None:
        if step == 60:
            loop.stepper.set_learning_rate = lambda rate: type(loop.stepper).set_learning_rate(loop.stepper, 3.0)  # type: ignore[method-assign]

    loop._evaluate = blow_up
    object.__setattr__(loop.plan, "eval_every", 60)
    with pytest.raises(TrainError) as caught:
        loop.train()
    assert caught.value.code in {"train.diverged", "train.not-finite"}
    newest = checkpoints.newest_checkpoint(RunFolder(tmp_path))
    assert newest is not None
    assert newest.step == loop.good_step <= 60 + 5
    losses = {event["step"]: event["loss"] for event in read_events(tmp_path / "events.jsonl", "step")}
    assert losses[newest.step] < losses[1]
    assert losses[loop.step] > losses[1]


def test_a_run_that_trains_nothing_ends_after_a_few_steps(
    tmp_path: Path, tiny_llama: Callable[..., Any], sp_tokenizer: Any
) -> None:
    from hantune.models.adapter import attach_lora

    model = attach_lora(tiny_llama(sp_tokenizer), AdapterSection(rank=2), seed=0)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_A" in name)  # B stays 0, so nothing reaches A
    before = weights(model)
    loop, _ = make_loop(tmp_path, model, epochs=5)
    with pytest.raises(TrainError) as caught:
        loop.train()
    assert (caught.value.code, loop.step) == ("train.not-learning", UPDATES_TO_MOVE)
    assert all(torch.equal(weight, weights(model)[name]) for name, weight in before.items())
