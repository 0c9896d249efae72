"""Numbers and movements as a reader sees them."""

from __future__ import annotations

import pytest

from hantune.report.data import Change
from hantune.report.words import (
    HELD_OUT,
    METRICS,
    clipped,
    count,
    decimal,
    dropped_reason,
    measure_of,
    measure_rank,
    movement,
    share,
)

PLACES = {12345.6: "12,346", 167.2: "167", 16.71: "16.7", 1.084: "1.08", 0.1234: "0.123", 0.0: "0", 1.2e-5: "1.2e-05"}


@pytest.mark.parametrize(("value", "text"), [*PLACES.items(), (None, "─"), (16, "16")])
def test_decimal_keeps_the_digits_that_matter(value: float | None, text: str) -> None:
    assert decimal(value) == text


def test_shares_and_counts() -> None:
    assert [share(value) for value in (0.0, 0.025, 0.93, 1.0, None)] == ["0%", "2.5%", "93%", "100%", "─"]
    assert (count(1946), count("viel")) == ("1,946", "─")


@pytest.mark.parametrize(
    ("before", "after", "text"), [(5.0, 2.0, "变好"), (2.0, 5.0, "变差"), (2.0, 2.001, "没变"), (None, 2.0, "")]
)
def test_movement_of_a_loss(before: float | None, after: float, text: str) -> None:
    assert movement(HELD_OUT[0], Change(before, after)) == text


def test_a_measure_without_a_better_side_does_not_move() -> None:
    assert movement(measure_of("chinese_share"), Change(0.1, 0.9)) == ""


def test_every_measure_of_an_evaluation_has_a_meaning() -> None:
    from hantune.evaluate.metrics import measure

    assert all(measure_of(name).meaning for name in measure(["你好"], ["你好"], ["stop"]))


def test_unknown_measures_come_last_under_their_own_name() -> None:
    unknown = measure_of("zebra")
    assert unknown.name == "zebra"
    assert measure_rank(unknown) > max(measure_rank(known) for known in METRICS)


def test_reasons_are_told_in_words_where_they_are_known() -> None:
    assert dropped_reason("format.one-turn") == "只有一句话, 没有回答"
    assert dropped_reason("zebra") == ""


def test_clipped_tells_how_much_is_left_out() -> None:
    assert clipped("一二三", 3) == "一二三"
    assert clipped("一二三四五", 3) == "一二三… (还有 2 个字)"
