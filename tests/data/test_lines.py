"""Lines of LCCC taken at once are what the format says of each."""

from __future__ import annotations

import json
from hashlib import blake2b

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hantune.data.clean.screen import Screen
from hantune.data.formats import lccc
from hantune.data.lines import read_lines
from hantune.data.prepared import Columns
from hantune.data.split import content_id, normal_text
from hantune.data.types import Conversation, Message, Row
from tests.laws import examples

SEGMENTED = (
    "你 去 那儿 竟然 不喊 我", "M a y d a y", "3 1 万", "SEED.24 小时", "ok , fine", "a. b", "… …", "T . T", "，",
    "a  b", " 你", "你 ", "", "你\u3000好", "\ufeff好", "第\n行", "e\u0301 \u0301", "龘 😀", "? a", "1 . 5 a",
    "\x00", "\x1f", "ß ﬁ",
)  # fmt: skip
dialogues = st.lists(st.lists(st.sampled_from(SEGMENTED) | st.text(max_size=4), max_size=6), min_size=1, max_size=12)


def one_by_one(lines: list[bytes], max_turns: int | None) -> dict[str, dict[str, object]]:
    """The rows that the format gives, by their place."""
    columns = Columns()
    for number, line in enumerate(lines):
        for result in lccc.read(Row(value=orjson.loads(line), source=f"a:{number}")):
            if isinstance(result, Conversation):
                messages = result.messages[: 2 * max_turns] if max_turns else result.messages
                kept = Conversation(messages=messages, source=result.source)
                columns.add(kept, content_id(kept))
    return {row["source"]: row for row in columns.take().to_pylist()}


@given(dialogues, st.sampled_from([None, 1, 2]))
@examples(60, 300)
def test_dialogues_are_what_the_format_says(given: list[list[str]], max_turns: int | None) -> None:
    lines = [orjson.dumps(each) for each in [*given, ["好", "好 的"]]]
    found = read_lines(b"\n".join(lines), "a", 0, max_turns)
    assert found is not None
    expected = one_by_one(lines, max_turns)
    rows = found.batch.to_pylist()
    assert [row["source"] for row in rows] == [f"a:{line}" for line in found.lines]
    assert all(expected[str(row["source"])] == row for row in rows)
    assert sorted([*found.lines.tolist(), *found.others.tolist()]) == list(range(len(lines)))
    assert len(lines) - 1 in found.lines
    assert found.digests == bytes.fromhex("".join(str(row["id"]) for row in rows))


@pytest.mark.parametrize(
    "line",
    [b"{broken", b'"text"', b"7", b'["a", 3]', b'[["a", "b"]]', b'["a"],["b"]', b'["a', b'{"dialog": ["a", "b"]}',
     b'["a" "b"]', b'[,"a""b"]', b'["a",]', b'[,"a","b"]', b'["a","b"],', b',["a","b"]', b'["a\tb", "c"]', b"[]",
     b'["a"b,"c"]',      b'["a\\n", "b"]', b'["a\\"", "b"]', b'["a", "b"]]', b'["a", "b"'],
)  # fmt: skip
def test_other_lines_are_left_out(line: bytes) -> None:
    good = [orjson.dumps(["你 好", "好"])] * 5
    found = read_lines(b"\n".join([*good, line, *good, b"  "]), "a")
    assert found is not None
    assert found.lines.tolist() == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10]
    assert found.others.tolist() == [5]


def test_lines_that_only_together_are_right() -> None:
    good = [orjson.dumps(["你 好", "好"])] * 4
    found = read_lines(b"\n".join([*good, b'["a"],["b","c"]', b'["x", "y"', b"]", b'["a', b'b", "c"]']), "a")
    assert found is not None
    assert found.lines.tolist() == [0, 1, 2, 3]


def test_lines_written_with_escapes() -> None:
    lines = [json.dumps(["你 好 \U0001f600", f"好 的 {number}"]).encode() for number in range(9)]
    found = read_lines(b"\r\n".join([*lines, b'["\\ud800 \\u0041", "b"]']), "a")
    assert found is not None
    assert found.lines.tolist() == list(range(9))
    assert found.batch.to_pylist()[3]["messages"][0]["content"] == "你好\U0001f600"


def test_block_of_another_kind() -> None:
    assert read_lines(b'{"a": 1}\n["a", "b"]', "a") is None
    assert read_lines('["你", "好"]'.encode("gb18030"), "a") is None


def test_dialogues_that_something_acts_on_are_left_out() -> None:
    data = '["你 好", "好 的"]\n["广 告", "好"]\n["好", "你 好", "广 告"]\n'.encode()
    found = read_lines(data, "a", acts_on=Screen([("广",)]))
    assert found is not None
    assert (found.lines.tolist(), found.others.tolist()) == ([0, 2], [1])


@pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_every_character_alone_and_after_a_letter(step: int) -> None:
    """Of the usual run, every seventh: each block of Unicode is met."""
    letters = [chr(point) for point in range(0, 0x20000, step) if chr(point).isprintable() and chr(point) not in '"\\ ']
    dialogues = [[before + letter, "か"] for letter in letters for before in ("", "か가e")]
    found = read_lines(b"\n".join(map(orjson.dumps, dialogues)), "a", 0)
    assert found is not None
    assert len(found.lines) > len(dialogues) - 100
    expected = [normal_text([("user", dialogues[line][0]), ("assistant", "か")]) for line in found.lines.tolist()]
    assert found.digests == b"".join(blake2b(each.encode(), digest_size=16).digest() for each in expected)


def test_content_ids_are_those_of_conversations() -> None:
    lines = [orjson.dumps(["Ａ b ， 你", "……"]), orjson.dumps(["a b,你", "……"])]
    found = read_lines(b"\n".join(lines), "a")
    assert found is not None
    messages = (Message(role="user", text="Ab，你"), Message(role="assistant", text="……"))
    ids = found.batch.column("id").to_pylist()
    assert ids[0] == ids[1] == content_id(Conversation(messages=messages))
