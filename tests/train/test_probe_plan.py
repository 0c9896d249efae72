"""When a run asks: laws of the schedule and of its budget."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from hantune.evaluate.probes import Style
from hantune.train.probe_plan import LEAST_TOKENS, SHARES, ProbePlan, Workload, plan_probes, probe_steps

CHATS = Style(lengths=tuple(sorted([6, 9, 12, 14, 15, 17, 20, 24, 33, 60] * 10)), chinese_share=0.95)
ESSAYS = Style(lengths=tuple(range(50, 450)), chinese_share=0.9)
WORK = Workload(
    total_steps=1000, trained_tokens=1_000_000, prompt_lengths=(12,) * 8, device="cpu", threads=1, layers=12,
    parameters=110_000_000,
)  # fmt: skip


def planned(work: Workload, style: Style = CHATS, share: float = 0.02, tokens: int | None = None) -> ProbePlan:
    return plan_probes(work, style, most_share=share, max_tokens=tokens)


def test_a_long_run_is_asked_at_every_point() -> None:
    assert probe_steps(1000) == (0, 10, 50, 100, 200, 300, 400, 500, 600, 700, 800, 900, 1000)


@given(total=st.integers(1, 100_000))
def test_the_schedule_of_any_run(total: int) -> None:
    steps = probe_steps(total)
    assert (steps[0], steps[-1]) == (0, total)
    exact = {math.ceil(Fraction(str(share)) * total) for share in SHARES}
    assert list(steps) == sorted(exact), "no share is a step late because of how it is written in binary"
    if total >= 100:
        assert len(steps) == len(SHARES)
    if total <= 10:
        assert steps == tuple(range(total + 1)), "a short run is asked at each of its steps, if there is budget"


@given(
    tokens=st.integers(1, 10**9),
    total=st.integers(1, 10_000),
    rows=st.integers(1, 40),
    share=st.sampled_from([0.0, 0.01, 0.02, 0.5, 1.0]),
    limit=st.sampled_from([None, 1, 3, 48, 500]),
    device=st.sampled_from(["cpu", "cuda"]),
    style=st.sampled_from([CHATS, ESSAYS, Style(lengths=(), chinese_share=0.0)]),
)
def test_a_plan_keeps_its_budget_or_is_the_smallest(
    tokens: int, total: int, rows: int, share: float, limit: int | None, device: str, style: Style
) -> None:
    work = replace(
        WORK, trained_tokens=tokens, total_steps=total, prompt_lengths=(12,) * rows, device=device, card_flops=4e14
    )
    plan = planned(work, style, share, limit)
    assert (plan.steps[0], plan.steps[-1]) == (0, total)
    assert set(plan.steps) <= set(probe_steps(total))
    assert 1 <= plan.max_tokens <= (limit or 256)
    assert plan == planned(work, style, share, limit), "no clock, no chance"
    if plan.share > share:
        assert len(plan.steps) == 2
        assert plan.max_tokens <= LEAST_TOKENS
    assert ProbePlan.from_dict(plan.as_dict()) == plan


def test_more_work_is_never_asked_less_often() -> None:
    plans = [planned(replace(WORK, trained_tokens=10**power)) for power in range(2, 9)]
    assert [len(plan.steps) for plan in plans] == sorted(len(plan.steps) for plan in plans)
    assert [plan.max_tokens for plan in plans] == sorted(plan.max_tokens for plan in plans)
    assert (len(plans[0].steps), len(plans[-1].steps)) == (2, len(SHARES))


def test_answers_get_the_room_that_the_datas_replies_need() -> None:
    long_run = replace(WORK, trained_tokens=10**9)
    chats, essays = planned(long_run), planned(long_run, ESSAYS)
    assert CHATS.covered(chats.max_tokens) >= 0.9
    assert (chats.judges_stops, essays.judges_stops) == (True, False)
    assert essays.max_tokens == 256
    assert planned(long_run, ESSAYS, tokens=400).judges_stops


def test_fewer_rounds_come_before_shorter_answers() -> None:
    plans = [planned(replace(WORK, trained_tokens=tokens)) for tokens in range(10_000, 500_000, 10_000)]
    shortened = [plan for plan in plans if not plan.judges_stops]
    assert all(len(plan.steps) == 2 for plan in shortened)


def test_what_makes_a_round_dear() -> None:
    per_round = WORK.cost(40)
    assert replace(WORK, rereads=True).cost(40) > 2 * per_round
    assert replace(WORK, threads=16).cost(40) > 2 * per_round
    assert replace(WORK, prompt_lengths=(12,) * 16).cost(40) < 2 * per_round, "answers in one batch share the weights"
    card = replace(WORK, device="cuda", card_flops=4e14, layers=32, parameters=6_700_000_000)
    assert 400 < card.cost(40) / 40 < 800, "launching kernels: about 600 trained tokens a step for 7B on an H200"


def test_nothing_to_ask_costs_nothing() -> None:
    assert planned(replace(WORK, prompt_lengths=())) == ProbePlan()


@given(total=st.integers(1, 5000), other=st.integers(1, 5000))
def test_a_run_of_another_length_is_asked_at_the_same_shares(total: int, other: int) -> None:
    plan = planned(replace(WORK, total_steps=total))
    assert plan.over(total) == plan
    assert plan.over(other) == replace(plan, steps=probe_steps(other, plan.shares))
    assert ProbePlan().over(other) == ProbePlan()
