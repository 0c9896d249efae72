"""Who is who: ids, renamed people, empty names; ``--me`` finds one person or says whom there is."""

from __future__ import annotations

import pytest

from hantune.data.formats.said import Said
from hantune.data.people import Person, WhoAmI, find_me, survey
from hantune.errors import DataError


def said(sender: str, name: str, *, time: int = 0, chat: str = "", **fields: object) -> Said:
    return Said(time=time, sender=sender, name=name, text="好", chat=chat, place="a.txt:1", **fields)  # type: ignore[arg-type]


LOG = survey([
    said("1001", "【群主】小满"), said("1001", "满满"), said("1001", "满满"), said("2002", "梅朵"),
    said("3003", "梅朵"),
    said("4004", ""), said("Ａbc", "Ａbc"), said("10000", "系统消息", kind="系统通知"),
])  # fmt: skip


def test_people_by_their_messages() -> None:
    assert LOG.people[:2] == [Person("1001", "满满", 3, ("【群主】小满", "满满")), Person("2002", "梅朵", 1, ("梅朵",))]
    assert [person.id for person in LOG.people] == ["1001", "2002", "3003", "4004", "Ａbc"]
    assert str(LOG.people[0]) == "满满 (1001), 也叫 【群主】小满"
    assert str(LOG.people[3]) == "(空昵称) (4004)"


@pytest.mark.parametrize(
    ("me", "expected"),
    [
        ("1001", {"1001"}), ("满满", {"1001"}), ("【群主】小满", {"1001"}), ("小满", {"1001"}), (" 满满 ", {"1001"}),
        ("abc", {"Ａbc"}), (["1001", "2002"], {"1001", "2002"}), ("(4004)", {"4004"}),
    ],
)  # fmt: skip
def test_an_id_or_any_name(me: str | list[str], expected: set[str]) -> None:
    assert find_me(LOG, me, "a.txt") == expected


@pytest.mark.parametrize(
    ("me", "words"),
    [
        (None, "不知道哪一个是你"),
        ("路人", "没有 路人"),
        ("梅朵", "叫 梅朵 的有 2 个人 (2002、3003)"),
        ("系统消息", "没有 系统消息"),
    ],
)
def test_who_am_i(me: str | None, words: str) -> None:
    with pytest.raises(DataError) as caught:
        find_me(LOG, me, "a.txt")
    error = caught.value
    assert (error.code, error.place, error.exit_code) == ("chatlog.who-am-i", "a.txt", 5)
    assert words in error.message
    assert "\n  3 条  满满 (1001)" in error.message
    assert 'hantune data prepare a.txt --out prepared --me "1001"' in (error.hint or "")


def test_a_name_that_only_another_log_knows_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert find_me(LOG, ["路人", "2002"], "a.txt") == {"2002"}
    assert "没有 路人" in capsys.readouterr().err


def test_a_name_of_several_is_the_one_whom_another_word_names() -> None:
    assert find_me(LOG, ["梅朵", "3003"], "a.txt") == {"3003"}


def test_answers_in_a_terminal() -> None:
    with pytest.raises(WhoAmI) as caught:
        find_me(LOG, None, "a.txt")
    assert [caught.value.named(word) for word in ("1", "4004", "满满", "梅朵", "9", "路人")] == [
        "1001", "4004", "1001", None, None, None,
    ]  # fmt: skip


def test_many_people_are_counted_not_listed() -> None:
    crowd = survey(said(str(number), f"人{number}") for number in range(50))
    with pytest.raises(DataError) as caught:
        find_me(crowd, None, "a.txt")
    assert caught.value.message.count("条") == 20
    assert "一共 50 人" in caught.value.message


def test_an_exporter_may_mark_the_user() -> None:
    log = survey([said("我", "wxid_me", is_me=True), said("2002", "梅朵", is_me=False)])
    assert find_me(log, None, "a.csv") == {"我"}
    assert find_me(log, "wxid_me", "a.csv") == {"我"}
    assert find_me(log, "梅朵", "a.csv") == {"2002"}


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([said("1", "a", time=1), said("2", "b", time=1), said("1", "a", time=2)], True),
        ([said("1", "a", time=2), said("2", "b", time=1)], False),
        ([said("1", "a", time=2, chat="x"), said("2", "b", time=1, chat="y")], True),
        ([said("1", "a", chat="x"), said("2", "b", chat="y"), said("1", "a", chat="x")], False),
        ([said("1", "a", chat=""), said("2", "b", chat="y"), said("1", "a", chat="")], False),
    ],
)
def test_whether_time_runs_back_or_chats_are_mixed(messages: list[Said], expected: bool) -> None:
    assert survey(messages).is_sorted is expected


def test_a_group_is_where_others_must_be_told_apart() -> None:
    log = survey([
        said("1", "a", chat="two"), said("2", "b", chat="two"), said("1", "a", chat="three"),
        said("2", "b", chat="three"),
        said("3", "c", chat="three"), said("2", "b", chat="flag", is_group=True),
        said("2", "b", chat="private", is_group=False),
        said("2", "c", chat="private", is_group=False), said("2", "c", chat="left", is_group=False),
        said("3", "c", chat="left"), said("2", "c", chat="left", is_group=False), said("3", "c", chat="right"),
        said("2", "b", chat="right", is_group=False),
    ])  # fmt: skip
    me = frozenset("1")
    assert {chat: log.is_group(chat, me) for chat in log.chats} == {
        "two": False, "three": True, "flag": True, "private": False, "left": True, "right": True,
    }  # fmt: skip
