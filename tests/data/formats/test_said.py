"""Times in every spelling, lines that end in one way only, kinds that cut."""

from __future__ import annotations

import io
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hantune.data.formats import said
from hantune.data.formats.said import CUTTING, PASSED, cuts, lines, parse_time

NOON = 1691882561  # 2023-08-12 23:22:41 on the clock of the log


@pytest.mark.parametrize(
    "text",
    [
        "2023-08-12 23:22:41", "2023/8/12 23:22:41", "2023-08-12T23:22:41", "2023-08-12T23:22:41.123+08:00",
        "2023年8月12日 23:22:41", "2023年8月12日23时22分41秒", "2023-8-12 下午 11:22:41", "2023-8-12 下午11:22:41",
        "2023.08.12 11:22:41 PM", "2023-08-12 11:22:41 p.m.", "2023-08-12 晚上11:22:41", "2023-08-12, 23:22:41",
        "1691882561", "1691882561000", "1691882561.5", 1691882561, 1691882561.0, datetime(2023, 8, 12, 23, 22, 41),
    ],
)  # fmt: skip
def test_one_time_in_many_spellings(text: object) -> None:
    assert parse_time(text) == NOON


@pytest.mark.parametrize("text", ["2023/8/12 23:22", "2023-08-12 11:22 PM"])
def test_seconds_may_be_missing(text: str) -> None:
    assert parse_time(text) == NOON - 41


@pytest.mark.parametrize(
    "text", ["", "昨天", "2023-02-30 10:00:00", "2023-08-12 25:00:00", "12:30", "20230812", None, True, ["2023-08-12"]]
)
def test_what_is_no_time(text: object) -> None:
    assert parse_time(text) is None


@pytest.mark.parametrize(
    ("hour", "mark", "expected"),
    [
        (12, "AM", 0), (12, "上午", 0), (12, "凌晨", 0), (1, "AM", 1), (11, "上午", 11), (12, "PM", 12),
        (12, "下午", 12),
        (1, "pm", 13), (8, "下午", 20), (8, "晚上", 20), (12, "中午", 12), (1, "中午", 13), (11, "中午", 11),
        (15, "下午", 15), (8, "上午", 8), (0, "上午", 0), (20, None, 20), (8, "p.m.", 20), (8, "a.m.", 8),
    ],
)  # fmt: skip
def test_hours(hour: int, mark: str | None, expected: int) -> None:
    assert said.hour_of(hour, mark) == expected


@given(
    st.lists(st.text(alphabet="ab\r\n\u2028\x85 ", max_size=5)),
    st.sampled_from(["\n", "\r\n"]),
    st.integers(min_value=1, max_value=7),
)
def test_lines_end_with_the_separator_and_nothing_else(parts: list[str], separator: str, chunk: int) -> None:
    text = separator.join(parts)
    said_chunk, said.CHUNK = said.CHUNK, chunk
    try:
        found = list(lines(io.StringIO(text, newline=""), separator))
    finally:
        said.CHUNK = said_chunk
    assert "".join(line.text + line.end for line in found) == text
    assert all(separator not in line.text for line in found)
    before = ""
    for line in found:  # numbers count LF, as editors and sed do
        assert line.number == before.count("\n") + 1
        before += line.text + line.end


def test_no_kind_both_cuts_and_is_passed_over() -> None:
    assert not CUTTING & PASSED
    assert cuts("图片")
    assert not cuts("动画表情")
    assert cuts("从没见过的类型")
