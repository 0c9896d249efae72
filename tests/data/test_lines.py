"""Lines of LCCC taken at once are what the format says of each."""

from __future__ import annotations

import unicodedata

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hantune.data.formats import lccc
from hantune.data.lines import normal_texts, read_lines
from hantune.data.prepared import Columns
from hantune.data.split import content_id
from hantune.data.types import Conversation, Message, Row

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
@settings(max_examples=300)
def test_dialogues_are_what_the_format_says(given: list[list[str]], max_turns: int | None) -> None:
    lines = [orjson.dumps(each) for each in [*given, ["好", "好 的"]]]
    found = read_lines(lines, [f"a:{number}" for number in range(len(lines))], max_turns)
    assert found is not None
    expected = one_by_one(lines, max_turns)
    rows = found.batch.to_pylist()
    assert [row["source"] for row in rows] == [f"a:{line}" for line in found.lines]
    assert all(expected[str(row["source"])] == row for row in rows)
    assert len(lines) - 1 in found.lines


@pytest.mark.parametrize(
    "line",
    [b"{broken", b'"text"', b"7", b'["a", 3]', b'[["a", "b"]]', b'["a"],["b"]', b'["a', b'{"dialog": ["a", "b"]}'],
)
def test_other_lines_are_left_out(line: bytes) -> None:
    good = [orjson.dumps(["你 好", "好"])] * 5
    found = read_lines([*good, line, *good], ["a:1"] * 11)
    assert found is not None
    assert found.lines.tolist() == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10]


def test_lines_that_only_together_are_right() -> None:
    good = [orjson.dumps(["你 好", "好"])] * 4
    found = read_lines([*good, b'["a"],["b","c"]', b'["x", "y"', b']'], ["a:1"] * 7)
    assert found is not None
    assert found.lines.tolist() == [0, 1, 2, 3]


def test_block_of_another_kind() -> None:
    assert read_lines([b'{"a": 1}', b'["a", "b"]'], ["a:1", "a:2"]) is None


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x02"), max_size=20), max_size=5))
@settings(max_examples=300)
def test_normal_texts_are_what_the_content_id_hashes(given: list[str]) -> None:
    expected = ["".join(unicodedata.normalize("NFKC", text).casefold().split()) for text in given]
    assert normal_texts("".join("\x02" + text for text in given)) == expected


def test_every_character_alone_and_after_a_letter() -> None:
    points = [point for point in range(3, 0x20000) if not 0xD800 <= point < 0xE000]
    texts = [before + chr(point) for point in points for before in ("", "か가e")]
    expected = ["".join(unicodedata.normalize("NFKC", text).casefold().split()) for text in texts]
    assert normal_texts("".join("\x02" + text for text in texts)) == expected


def test_content_ids_are_those_of_conversations() -> None:
    lines = [orjson.dumps(["Ａ b ， 你", "……"]), orjson.dumps(["a b,你", "……"])]
    found = read_lines(lines, ["a:1", "a:2"])
    assert found is not None
    messages = (Message(role="user", text="Ab，你"), Message(role="assistant", text="……"))
    ids = found.batch.column("id").to_pylist()
    assert ids[0] == ids[1] == content_id(Conversation(messages=messages))
