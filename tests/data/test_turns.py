"""From messages to conversations: windows to the second, cuts, groups, and the law that no message gets lost."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hantune.data import turns
from hantune.data.formats.said import Said, unsaid
from hantune.data.turns import Talk, Windows, Yield
from hantune.data.types import Conversation, Reject

ME, A, B = "我", "甲", "乙"
PICTURE, STICKER = "[图片]", "[表情包]"


def log(*lines: tuple[str, str, int]) -> list[Said]:
    """Messages (who, text, seconds after the one before); ``PICTURE`` cuts, ``STICKER`` is passed over."""
    at, result = 1_600_000_000, []
    for number, (who, text, later) in enumerate(lines, 1):
        at += later
        said = Said(time=at, sender=who, name=who, text=text, chat="c", place=f"a:{number}")
        kind = {PICTURE: "图片", STICKER: "动画表情"}.get(text)
        result.append(unsaid(said, kind) if kind else said)
    return result


def run(
    messages: Sequence[Said], *, is_group: bool = False, **options: Any
) -> tuple[list[list[str]], list[tuple[str, str]], Yield]:
    """(the texts of each conversation, (reason, place) of each reject, the report)."""
    report = Yield(read=len(messages))
    name_of = (lambda said: said.name) if is_group else None
    talk = Talk("c", lambda said: said.sender == ME, report, name_of=name_of, **options)
    results = list(talk.take(messages))
    conversations = [[m.text for m in item.messages] for item in results if isinstance(item, Conversation)]
    return conversations, [(item.reason, item.source) for item in results if isinstance(item, Reject)], report


def test_question_and_answer() -> None:
    found, rejects, report = run(log((A, "在吗", 0), (ME, "在", 5), (A, "走", 5), (ME, "好", 5)))
    assert (found, rejects) == ([["在吗", "在", "走", "好"]], [])
    assert (report.read, report.kept, report.conversations, report.answers) == (4, 4, 1, 2)


@pytest.mark.parametrize(("gap", "merges"), [(0, True), (119, True), (120, True), (121, False), (299, False)])
def test_a_run_merges_within_two_minutes(gap: int, merges: bool) -> None:
    mine, *_ = run(log((A, "问", 0), (ME, "一", 5), (ME, "二", gap), (A, "再问", 5), (ME, "再答", 5)))
    others, *_ = run(log((A, "一", 0), (A, "二", gap), (ME, "答", 5)))
    if merges:
        assert (mine, others) == ([["问", "一\n二", "再问", "再答"]], [["一\n二", "答"]])
    else:
        assert (mine, others) == ([["问", "一"], ["再问", "再答"]], [["二", "答"]])


def test_a_run_is_measured_from_message_to_message() -> None:
    found, *_ = run(log((A, "一", 0), (A, "二", 100), (A, "三", 100), (ME, "答", 100)))
    assert found == [["一\n二\n三", "答"]]


@pytest.mark.parametrize(("gap", "pairs"), [(299, True), (300, True), (301, False)])
def test_an_answer_pairs_within_five_minutes(gap: int, pairs: bool) -> None:
    found, rejects, report = run(log((A, "问", 0), (ME, "答", gap)))
    assert found == ([["问", "答"]] if pairs else [])
    if not pairs:
        assert rejects == [("chatlog.late-answer", "a:1"), ("chatlog.no-question", "a:2")]
        assert report.reasons == {"chatlog.late-answer": 1, "chatlog.no-question": 1}


@pytest.mark.parametrize(("gap", "is_one"), [(300, True), (301, False)])
def test_a_longer_gap_ends_the_conversation(gap: int, is_one: bool) -> None:
    found, *_ = run(log((A, "一", 0), (ME, "二", 5), (A, "三", gap), (ME, "四", 5)))
    assert found == ([["一", "二", "三", "四"]] if is_one else [["一", "二"], ["三", "四"]])


def test_a_cutting_kind_ends_it_and_others_are_passed_over() -> None:
    found, rejects, report = run(
        log((A, "一", 0), (ME, "二", 5), (A, PICTURE, 5), (A, "好看吗", 5), (ME, STICKER, 5), (ME, "好看", 5))
    )
    assert found == [["一", "二"], ["好看吗", "好看"]]
    assert rejects == [("chatlog.not-text", "a:3"), ("chatlog.not-text", "a:5")]
    assert report.kinds == {"图片": 1, "动画表情": 1}
    _, rejects, _ = run(log((A, "看", 0), (A, PICTURE, 5), (ME, "不错", 5)))
    assert [reason for reason, _ in rejects] == ["chatlog.cut", "chatlog.not-text", "chatlog.no-question"]


def test_what_nobody_asked_or_answered() -> None:
    messages = log((ME, "在吗", 0), (ME, "喂", 5), (A, "在", 5), (ME, "好", 5), (A, "嗯", 5), (A, "哦", 5))
    found, rejects, report = run(messages)
    assert found == [["在", "好"]]
    assert rejects == [("chatlog.no-question", "a:1"), ("chatlog.no-answer", "a:5")]
    assert report.reasons == {"chatlog.no-question": 2, "chatlog.no-answer": 2}


def test_in_a_group_names_stand_in_front() -> None:
    messages = log(
        (A, "去吗", 0), (A, "周末", 5), (B, "去", 5), (A, "好", 5), (ME, "我也去", 5), (B, "几点", 5), (ME, "九点", 5)
    )
    found, *_ = run(messages, is_group=True)
    assert found == [["甲: 去吗\n周末\n乙: 去\n甲: 好", "我也去", "乙: 几点", "九点"]]


def test_a_system_prompt_stands_first() -> None:
    found, *_ = run(log((A, "在吗", 0), (ME, "在", 5)), system="你是小满")
    assert found == [["你是小满", "在吗", "在"]]


def test_windows_can_be_changed() -> None:
    messages = log((A, "一", 0), (A, "二", 30), (ME, "三", 700))
    assert run(messages, windows=Windows(merge=10, pair=1000))[0] == [["二", "三"]]
    assert run(messages, windows=Windows(merge=30, pair=1000))[0] == [["一\n二", "三"]]


def test_long_conversations_are_cut_between_pairs() -> None:
    messages = log(*[(who, f"{n}{who}", 5) for n in range(5) for who in (A, ME)])
    found, rejects, report = run(messages, windows=Windows(pairs=2))
    assert [len(texts) for texts in found] == [4, 4, 2]
    assert (rejects, report.kept) == ([], 10)


def test_a_busy_group_keeps_what_was_said_last() -> None:
    count = 3 * turns.MOST_BEFORE
    found, _, report = run(log(*[(A if n % 2 else B, str(n), 5) for n in range(count)], (ME, "答", 5)), is_group=True)
    ((question, answer),) = found
    lines = question.split("\n")
    assert (lines[-1], answer) == (f"甲: {count - 1}", "答")
    assert turns.MOST_BEFORE <= len(lines) <= 2 * turns.MOST_BEFORE
    assert all(line.startswith(("甲: ", "乙: ")) for line in lines)
    assert report.kept + report.reasons["chatlog.no-answer"] == count + 1


def test_one_monologue_is_bounded() -> None:
    _, _, report = run(log((A, "问", 0), *[(ME, str(n), 5) for n in range(3 * turns.MOST_IN_TURN)]))
    assert report.kept == turns.MOST_IN_TURN + 1


def test_a_session_lasts_while_nobody_is_silent_for_an_hour() -> None:
    spread = log((A, "一", 0), (ME, "二", 5), (A, "三", 3000), (ME, "四", 5), (A, "五", 3601), (ME, "六", 5))
    talk = Talk("c", lambda said: said.sender == ME, Yield())
    one, two, three = (item.meta["session"] for item in talk.take(spread) if isinstance(item, Conversation))
    assert one == two != three
    assert "c" not in one


THIRTY = log(*[(A, "你好", 400), (A, PICTURE, 5), (ME, "晚点说", 900)] * 10)


def test_thirty_lines_without_a_sample_are_explained() -> None:
    found, _, report = run(THIRTY)
    assert (found, report.read, report.kept) == ([], 30, 0)
    text = report.text()
    assert "读了 30 条消息, 得到 0 段对话" in text
    assert "不是文字: 图片 10" in text
    assert Yield.of(json.loads(json.dumps(report.as_dict()))) == report
    why = report.why_nothing().split("\n")
    assert why[0] == "30 条消息没有成为一个样本, 最常见的原因:"
    assert len(why) == 4
    assert {line.split("(")[1].split(")")[0] for line in why[1:]} == {
        "chatlog.not-text", "chatlog.cut", "chatlog.no-question",
    }  # fmt: skip
    text.encode("gbk")


def test_every_reason_has_words_and_advice() -> None:
    assert turns.REASONS.keys() == turns.ADVICE.keys()


MESSAGES = st.lists(
    st.tuples(
        st.sampled_from([ME, A, B]),
        st.sampled_from(["话", "长一点的话", PICTURE, STICKER]),
        st.sampled_from([0, 5, 120, 121, 300, 301, 4000]),
    ),
    max_size=40,
)


@given(MESSAGES, st.booleans(), st.integers(1, 4))
def test_no_message_gets_lost_and_roles_alternate(
    lines: list[tuple[str, str, int]], is_group: bool, pairs: int
) -> None:
    messages = log(*lines)
    report = Yield(read=len(messages))
    talk = Talk(
        "c",
        lambda said: said.sender == ME,
        report,
        windows=Windows(pairs=pairs),
        name_of=(lambda said: said.name) if is_group else None,
    )
    results = list(talk.take(messages))
    assert report.read == report.kept + report.kinds.total() + report.reasons.total()
    kept = 0
    for item in results:
        if isinstance(item, Conversation):
            roles = [message.role for message in item.messages]
            assert roles == ["user", "assistant"] * (len(roles) // 2)
            assert 0 < len(roles) <= 2 * pairs
            kept += sum(message.text.count("\n") + 1 for message in item.messages)
    assert kept == report.kept
    assert report.conversations == sum(isinstance(item, Conversation) for item in results)
