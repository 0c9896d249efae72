"""An answer takes tokens until its end, and tells every piece of its text once."""

from __future__ import annotations

from typing import Any

import pytest

from hantune.data.tokens import Encoder
from hantune.infer.lane import Lane
from hantune.infer.sample import LogProbs, SamplingParams
from hantune.infer.stream import Pieces, TextStream

STOP = 2


@pytest.fixture
def encoder(sp_tokenizer: Any) -> Encoder:
    return Encoder(sp_tokenizer)


def lane_of(encoder: Encoder, room: int = 99, stops: tuple[str, ...] = ()) -> Lane:
    stream = TextStream(Pieces(encoder), stops)
    return Lane([1, 5], room, frozenset([STOP]), stream, SamplingParams(stops=stops))


def test_it_ends_at_a_stop_token_a_stop_string_or_its_room(encoder: Encoder) -> None:
    ids = encoder.tokenizer.encode("你好世界 hello", add_special_tokens=False)
    stopped, cut, full = lane_of(encoder), lane_of(encoder, stops=("世界",)), lane_of(encoder, room=len(ids))
    for token in [*ids, STOP]:
        stopped.take(token)
        for lane in (cut, full):
            if lane.finish_reason is None:
                lane.take(token)
    assert [lane.finish_reason for lane in (stopped, cut, full)] == ["stop", "stop", "length"]
    assert [lane.completion().text for lane in (stopped, cut, full)] == ["你好世界 hello", "你好", "你好世界 hello"]
    assert stopped.completion().ids == tuple(ids)
    assert stopped.completion().usage == {
        "prompt_tokens": 2, "completion_tokens": len(ids), "total_tokens": 2 + len(ids)
    }  # fmt: skip


def test_news_come_once_and_are_the_text(encoder: Encoder) -> None:
    lane = lane_of(encoder)
    told = []
    assert lane.last == 5
    for token in [*encoder.tokenizer.encode("你好龘", add_special_tokens=False), STOP]:
        lane.take(token, LogProbs(-1.0, ()))
        told.append(lane.news())
    assert "".join(told) == lane.completion().text == "你好龘"
    assert lane.news() == ""
    assert [score.id for score in lane.scores] == lane.ids
    assert lane.last == lane.ids[-1]
