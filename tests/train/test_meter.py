"""Speed, share of the machine, memory and time left, from steps of known length."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
import torch

from hantune.train.floor import Floor, Work
from hantune.train.meter import Meter, note
from hantune.train.step import StepResult

FLOOR = Floor(work=Work(token=4.0, label=2.0, pair=1.0, shape=(2, 2)), rate=1000.0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, in a list of one."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def result(tokens: int, supervised: int) -> StepResult:
    return StepResult(loss=1.0, grad_norm=1.0, tokens=tokens, supervised=supervised)


def play(meter: Meter, clock: list[float], seconds: float = 2.0, tokens: int = 100) -> None:
    meter.start()
    clock[0] += seconds
    assert meter.stop(result(tokens, tokens // 4), squares=900) == seconds


def test_rates_count_steps_only(clock: list[float]) -> None:
    meter = Meter(FLOOR)
    play(meter, clock)
    with meter.apart("eval"):
        clock[0] += 50
    with meter.apart("save"):
        clock[0] += 3
    play(meter, clock)
    assert (meter.tokens_per_second, meter.supervised_per_second) == (50, 12.5)
    assert meter.matmul_share == (4 * 100 + 2 * 25 + 900) / 2 / 1000
    assert (meter.seconds, meter.elapsed) == (4, 57)
    told = meter.overall()
    assert (told["seconds"], told["eval_seconds"], told["save_seconds"]) == (4, 50, 3)
    assert (told["tokens_per_second"], told["supervised_per_second"], told["matmul_share"]) == (50, 12.5, 0.675)


def test_time_before_a_failure_counts(clock: list[float]) -> None:
    meter = Meter()

    def fail() -> None:
        with meter.apart("eval"):
            clock[0] += 5
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert meter.elapsed == 5


def test_the_speed_shown_is_of_the_last_steps(clock: list[float]) -> None:
    meter = Meter(window=2)
    for seconds in (100.0, 1.0, 1.0):
        play(meter, clock, seconds)
    assert meter.tokens_per_second == 100
    assert meter.overall()["tokens_per_second"] == round(300 / 102, 1)


def test_the_rest_is_steps_evaluations_and_saves(clock: list[float]) -> None:
    meter = Meter()
    assert meter.seconds_left(0.0, {"eval": 3, "save": 3}) == 0, "nothing is known"
    for seconds in (8, 12):
        with meter.apart("eval"):
            clock[0] += seconds
    play(meter, clock)
    with meter.apart("save"):
        clock[0] += 1
    assert meter.seconds_left(0.25, {"eval": 2, "probe": 9, "save": 3}) == 3 * 2 + 2 * 10 + 3 * 1
    assert meter.seconds_left(1.0, {"eval": 0, "probe": 0, "save": 0}) == 0


def test_a_resumed_meter_goes_on(clock: list[float]) -> None:
    meter = Meter(FLOOR)
    play(meter, clock)
    state = meter.state()
    other = Meter(FLOOR)
    other.restore(json.loads(json.dumps(state)))
    for one in (meter, other):
        play(one, clock)
    with meter.apart("eval"):
        clock[0] += 1
    assert state["other"]["eval"] == [0.0, 0], "what is kept does not move on"
    assert other.overall() == {**meter.overall(), "eval_seconds": 0.0}


def test_without_a_floor_no_share_is_told(clock: list[float]) -> None:
    meter = Meter()
    play(meter, clock)
    figures = meter.now()
    assert "matmul_share" not in figures
    assert "算力" not in note(figures)


def test_the_memory_of_the_process_is_told() -> None:
    held = Meter(device=torch.device("cpu")).memory()
    if not held:
        pytest.skip("this system does not tell what a process holds")
    assert 0 < held["memory"] <= held["memory_peak"]
    assert set(held) == {"memory", "memory_peak"}


@pytest.mark.parametrize(
    ("figures", "text"),
    [
        ({"tokens_per_second": 574.3}, "574 词元/秒"),
        ({"tokens_per_second": 9, "matmul_share": 0.568}, "9 词元/秒  算力 57%"),
        ({"tokens_per_second": 9, "memory": 3 << 29}, "9 词元/秒  内存 1.5 GB"),
        ({"tokens_per_second": 9, "memory": 1, "cuda_memory_peak": 9 << 30}, "9 词元/秒  显存 9.0 GB"),
    ],
)
def test_what_stands_behind_the_bar(figures: dict[str, Any], text: str) -> None:
    assert note(figures) == text
