"""Bad signs are told when they are there, each with advice, and only then."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from hantune.evaluate.probes import Figures
from hantune.evaluate.signs import bad_signs

GOOD = Figures(
    count=8, chinese_share=0.98, stop_rate=0.75, repetition=0.0, empty_share=0.0, memorised=0.125,
    memorised_held_out=0.25, different=8, length_ratio=1.1, score=80.0,
)  # fmt: skip


def codes(found: Figures, **settings: Any) -> list[str]:
    asked = {"progress": 0.5, "data_chinese": 0.95, "judges_stops": True, **settings}
    return [sign.code for sign in bad_signs(found, **asked)]


BAD = [
    ({"stop_rate": 0.0}, "probe.no-stop"),
    ({"repetition": 0.5}, "probe.repetition"),
    ({"empty_share": 0.5}, "probe.empty"),
    ({"different": 1}, "probe.same"),
    ({"memorised_held_out": 0.5}, "probe.memorised"),
    ({"chinese_share": 0.2}, "probe.not-chinese"),
]


@pytest.mark.parametrize(("changes", "code"), BAD)
def test_each_sign_is_told_and_not_too_early(changes: dict[str, float], code: str) -> None:
    found = replace(GOOD, **changes)
    assert codes(found) == [code]
    assert codes(found, progress=0.29) == []
    assert codes(replace(found, count=2)) == []
    (sign,) = bad_signs(found, progress=1.0, data_chinese=1.0, judges_stops=True)
    sign.text.encode("gbk")
    assert any(word in sign.text for word in ("template.", "train.", "hantune ", "底座")), "it says what to do"


def test_a_good_round_has_no_sign() -> None:
    assert codes(GOOD) == []


def test_who_is_asked_what_was_taught_may_say_it() -> None:
    assert codes(replace(GOOD, memorised=1.0, memorised_held_out=None)) == []


def test_endings_are_judged_only_where_answers_had_room() -> None:
    assert codes(replace(GOOD, stop_rate=0.0), judges_stops=False) == []


def test_english_data_may_have_english_answers() -> None:
    assert codes(replace(GOOD, chinese_share=0.0), data_chinese=0.1) == []
