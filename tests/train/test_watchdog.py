"""The watchdog barks at runs that diverge and never at runs that learn, however noisy."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import numpy as np
import pytest

from hantune.train.watchdog import FEWEST, SPIKE, WINDOW, Watchdog

STEPS = 300
RUNS = 8

Draw = np.random.Generator
Curve = np.ndarray


def learning(draw: Draw) -> Curve:
    """A loss that falls from some level to some lower one, without noise."""
    start = draw.uniform(0.5, 11)
    end = start * draw.uniform(0.005, 0.9)
    return np.asarray(end + (start - end) * np.exp(-np.arange(STEPS) / draw.uniform(5, STEPS)))


def noisy(draw: Draw) -> Curve:
    return learning(draw) * np.exp(draw.normal(0, draw.uniform(0.05, 1.0), STEPS))


def two_kinds_of_data(draw: Draw) -> Curve:
    """One sample a step, easy ones and hard ones: the loss jumps by a factor of ten all the time."""
    return learning(draw) * np.where(draw.random(STEPS) < draw.uniform(0.05, 0.95), 0.1, 1.0)


def broken_samples(draw: Draw) -> Curve:
    return noisy(draw) + (draw.random(STEPS) < 0.02) * draw.pareto(1.0, STEPS) * 3


def bursts(draw: Draw) -> Curve:
    """What a high learning rate does to a text known by heart: up for a dozen steps, and back."""
    curve = learning(draw) * np.exp(draw.normal(0, 0.2, STEPS))
    for start in draw.integers(0, STEPS, 4):
        part = curve[start : start + int(draw.integers(3, 16))]
        part += draw.uniform(0.2, 3) * np.linspace(1, 0, len(part))
    return curve


def warming_up(draw: Draw) -> Curve:
    curve = noisy(draw)
    curve[:30] += np.linspace(0, 1.5, 30)
    return curve


def another_third_on_top(draw: Draw) -> Curve:
    curve = learning(draw) * np.exp(draw.normal(0, 0.3, STEPS))
    curve[STEPS // 2 :] *= 1.3
    return curve


def norms(draw: Draw) -> Curve:
    """Gradient norms with heavy tails that drift up or down over the run."""
    drift = np.exp(draw.uniform(-3, 3) * np.arange(STEPS) / STEPS)
    return np.asarray(draw.uniform(0.01, 5) * drift * np.exp(draw.normal(0, draw.uniform(0.2, 1.0), STEPS)))


def stop_of(losses: Curve, grad_norms: Curve) -> int | None:
    """The step at which the watchdog says that the run has diverged."""
    dog = Watchdog()
    for step, (loss, norm) in enumerate(zip(losses.tolist(), grad_norms.tolist(), strict=True)):
        dog.add(loss, norm)
        if dog.has_diverged:
            return step
    return None


LEARNING = [noisy, two_kinds_of_data, broken_samples, bursts, warming_up, another_third_on_top]


@pytest.mark.parametrize("kind", LEARNING)
def test_a_run_that_learns_is_never_stopped(kind: Callable[[Draw], Curve]) -> None:
    for seed in range(RUNS):
        draw = np.random.default_rng(seed)
        assert stop_of(kind(draw), norms(draw)) is None, seed


@pytest.mark.parametrize("height", [7.0, 10.4, 200.0])
@pytest.mark.parametrize(("onset", "highest"), [(10, 2.0), (40, 2.5), (150, 3.0)])
def test_a_run_that_leaves_for_good_is_stopped_soon(height: float, onset: int, highest: float) -> None:
    for seed in range(RUNS):
        draw = np.random.default_rng(seed)
        losses = draw.uniform(0.3, highest) * np.exp(draw.normal(0, 0.4, STEPS))
        losses[onset:] = height * np.exp(draw.normal(0, 0.1, STEPS - onset))
        stopped = stop_of(losses, norms(draw))
        assert stopped is not None
        assert onset <= stopped <= onset + WINDOW


def test_a_slower_rise_is_stopped_when_the_gradients_explode_with_it() -> None:
    losses = np.full(STEPS, 2.0)
    losses[100:] = 3.5
    calm, wild = np.ones(STEPS), np.ones(STEPS)
    wild[100:] = 2 * SPIKE
    assert stop_of(losses, calm) is None
    assert stop_of(losses, wild) is not None


def test_what_little_has_been_seen_of_decides_less() -> None:
    assert stop_of(np.array([2.0] * FEWEST + [5.0] * STEPS), np.ones(STEPS + FEWEST)) is None
    assert stop_of(np.array([2.0] * WINDOW + [5.0] * STEPS), np.ones(STEPS + WINDOW)) is not None


def test_a_mean_that_is_expected_says_little_of_single_steps() -> None:
    dog = Watchdog()
    dog.expect(2.0)
    dog.add(9.0, 1.0)
    assert not dog.is_suspect
    for _ in range(WINDOW):
        dog.add(9.0, 1.0)
    assert dog.has_diverged


@pytest.mark.parametrize("step", [0, 5, 100])
def test_one_sample_however_broken_stops_nothing(step: int) -> None:
    losses = np.full(STEPS, 2.0)
    losses[step] = 1e300
    assert stop_of(losses, np.ones(STEPS)) is None


def test_a_state_is_suspect_long_before_the_run_is_stopped_and_good_again_after() -> None:
    dog = Watchdog()
    for _ in range(100):
        dog.add(2.0, 1.0)
    assert (dog.is_suspect, dog.has_diverged) == (False, False)
    dog.add(9.0, 1.0)
    assert (dog.is_suspect, dog.has_diverged) == (True, False)
    for _ in range(3):
        assert dog.is_suspect
        dog.add(2.0, 1.0)
    assert (dog.is_suspect, dog.has_diverged) == (False, False)


def test_some_steps_that_are_a_little_high_are_suspect_together() -> None:
    dog = Watchdog()
    for step in range(100):
        dog.add(1.0 if step % 2 else 3.0, 1.0)
    for _ in range(3):
        dog.add(7.0, 1.0)
    assert not dog.is_suspect
    for _ in range(5):
        dog.add(7.0, 1.0)
    assert dog.is_suspect


def test_spikes_stand_out_among_the_last_steps_only_when_there_are_some() -> None:
    dog = Watchdog()
    for seen in range(WINDOW):
        assert dog.is_spike(1e9) is (seen >= WINDOW // 2)
        dog.add(2.0, 1.0)
    assert dog.is_spike(SPIKE * 1.01)
    assert not dog.is_spike(SPIKE * 0.99)
    for _ in range(WINDOW):
        dog.add(2.0, 100.0)
    assert not dog.is_spike(SPIKE * 99), "what was usual long ago does not count"


@pytest.mark.parametrize("cut", [3, FEWEST, 120])
def test_a_restored_watchdog_goes_on_to_the_bit(cut: int) -> None:
    draw = np.random.default_rng(0)
    losses, grad_norms = noisy(draw).tolist(), norms(draw).tolist()
    whole = Watchdog()
    for loss, norm in zip(losses, grad_norms, strict=True):
        whole.add(loss, norm)
    first, second = Watchdog(), Watchdog()
    for loss, norm in zip(losses[:cut], grad_norms[:cut], strict=True):
        first.add(loss, norm)
    second.restore(json.loads(json.dumps(first.state())))
    for loss, norm in zip(losses[cut:], grad_norms[cut:], strict=True):
        second.add(loss, norm)
    assert second.state() == whole.state()
    assert whole.now is not None
    assert math.isfinite(whole.now.spread)
