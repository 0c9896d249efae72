"""Curves: the same bytes each time, text as text, the page's colours, no request, no warning."""

from __future__ import annotations

import re
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hantune.data.counts import Class
from hantune.paths import RunFolder
from hantune.report.data import RunData, read_run
from hantune.report.plots import histogram, loss_chart, rate_chart, smoothed, thinned, tick


def test_charts_are_inline_svg_of_the_page(run: RunFolder) -> None:
    data = read_run(run)
    for chart in (loss_chart(data), rate_chart(data)):
        assert chart.startswith('<svg class="chart"')
        assert chart.endswith("</svg>")
        assert ">步数</text>" in chart
        assert "var(--first)" in chart
        assert not re.search(r"http|DejaVu|<style|<metadata|#0[0-9]0[0-9]0[0-9]", chart)
    assert "var(--second)" in loss_chart(data)


def test_the_same_run_gives_the_same_bytes(run: RunFolder) -> None:
    assert loss_chart(read_run(run)) == loss_chart(read_run(run))


def test_settings_of_the_user_change_nothing_and_are_left_alone(run: RunFolder) -> None:
    import matplotlib

    data = read_run(run)
    wanted = loss_chart(data)
    with matplotlib.rc_context({"lines.linestyle": ":", "axes.facecolor": "red", "svg.fonttype": "path"}):
        assert loss_chart(data) == wanted
        assert matplotlib.rcParams["svg.fonttype"] == "path"


def test_no_warning_about_missing_glyphs(run: RunFolder) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert loss_chart(read_run(run))


def test_charts_of_nothing_are_nothing() -> None:
    one = {"event": "step", "step": 1, "loss": 2.0, "learning_rate": 1e-4}
    for events in ((), (one,), ({**one, "loss": float("nan"), "learning_rate": None},)):
        assert loss_chart(RunData(name="r", events=events)) == ""
        assert rate_chart(RunData(name="r", events=events)) == ""


@given(st.lists(st.floats(-1e6, 1e6), max_size=60), st.integers(1, 20))
def test_thinning_keeps_the_mean_and_the_order(values: list[float], limit: int) -> None:
    curve = [(float(step), value) for step, value in enumerate(values)]
    thin = thinned(curve, limit)
    assert len(thin) == min(len(curve), limit)
    assert [x for x, _ in thin] == sorted(x for x, _ in thin)
    if values:
        assert min(values) - 1e-3 <= min(y for _, y in thin)
        assert max(y for _, y in thin) <= max(values) + 1e-3


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60))
def test_smoothing_stays_within_the_curve_and_starts_where_it_starts(values: list[float]) -> None:
    curve = [(step, value) for step, value in enumerate(values)]
    smooth = smoothed(curve)
    assert [x for x, _ in smooth] == list(range(len(values)))
    assert smooth[0][1] == values[0]
    assert all(min(values) - 1e-3 <= y <= max(values) + 1e-3 for _, y in smooth)


@pytest.mark.parametrize(("value", "text"), [(0, "0"), (2.5, "2.5"), (1.5e-4, "1.5e-4"), (5e-5, "5e-5"), (300, "300")])
def test_ticks_are_short(value: float, text: str) -> None:
    assert tick(value) == text


def test_histograms_are_inline_svg_of_the_page() -> None:
    few = [Class(1, 1, 20_000), Class(2, 2, 0), Class(3, 3, 7)]
    many = [Class(1 << power, (2 << power) - 1, power) for power in range(5, 25)]
    for classes, words in ((few, ">2 万</text>"), (many, ">32</text>")):
        chart = histogram(classes, "turns", "轮数")
        assert chart == histogram(classes, "turns", "轮数")
        assert chart.startswith('<svg class="chart"')
        assert 'aria-label="轮数"' in chart
        assert words in chart
        assert not re.search(r"http|DejaVu|<style|<metadata|#0[0-9]0[0-9]0[0-9]", chart)
    assert "var(--second)" in histogram(many, "t", "词元", (512, 1024))
    assert "var(--second)" not in histogram(few, "t", "词元", (512, 1024))
    assert histogram([], "t", "词元") == ""
