"""The pass over the sources: formats told from the first rows, tallies by source, long records cut in the rejects."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hantune.data.blocks import absorb_all, take_all
from hantune.data.intake import EXACT, FREE, IN_VAL, KEPT, NEAR, NEAR_VAL, VAL, Intake, cut_turns, refuse, reject_line
from hantune.data.opening import open_source
from hantune.data.sources import inspect
from hantune.data.types import Conversation, Message, Reject, Row
from hantune.errors import DataError


def write(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


PAIR = '{"question": "问%d", "answer": "答"}'


def test_broken_first_rows_do_not_hide_the_format(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", ["{broken"] * 60 + [PAIR % 1])
    source = inspect(path)
    opened = open_source(source, None)
    assert (opened.found.name, opened.people, opened.log) == ("pairs", None, None)
    items = [item for _, item in opened.items(source)]
    assert [type(item) for item in items] == [Reject] * 60 + [Row]


def test_each_source_has_its_own_format_and_tally(tmp_path: Path) -> None:
    first = write(tmp_path / "a.jsonl", [PAIR % i for i in range(5)] + ["{broken"])
    second = write(tmp_path / "b.jsonl", ['["问", "答"]', '["只有问"]'])
    intake = Intake(tmp_path, seed=0)
    absorb_all(intake, take_all(intake, [(inspect(first), False), (inspect(second), True)], None, has_val=True))
    assert bytes(intake.parts) == bytes([FREE] * 5 + [VAL])
    is_val, fate = intake.decide(0.0, None)
    assert list(is_val) == [False] * 5 + [True]
    assert list(fate) == [KEPT] * 6
    assert [(t.format, t.read, t.kept) for t in intake.tallies] == [("pairs", 6, 5), ("lccc", 2, 1)]
    assert intake.dropped == {"source.broken-json": 1, "format.one-turn": 1}
    assert intake.write_parts(is_val, fate) == {"train": 5, "val": 1}
    assert not intake.spool.exists()


def test_equal_conversations_of_val_are_found_whatever_their_order(tmp_path: Path) -> None:
    val, train = write(tmp_path / "v.jsonl", [PAIR % 1]), write(tmp_path / "t.jsonl", [PAIR % 1, PAIR % 2])
    intake = Intake(tmp_path, seed=0)
    absorb_all(intake, take_all(intake, [(inspect(val), True), (inspect(train), False)], None, has_val=True))
    assert list(intake.decide(0.0, None)[1]) == [KEPT, IN_VAL, KEPT]


def test_reject_lines_are_json_of_bounded_length() -> None:
    short = json.loads(reject_line(Reject(source="a:1", reason="r", detail="d", record={"q": "问"})))
    assert short == {"source": "a:1", "reason": "r", "detail": "d", "record": {"q": "问"}}
    long = reject_line(Reject(source="a:1", reason="r", detail="d", record={"q": "问" * 100_000}))
    assert len(long) < 10_000
    assert json.loads(long)["record"].startswith('{"q":"问')


def test_a_refused_reject_keeps_its_code_and_place() -> None:
    with pytest.raises(DataError, match="d") as caught:
        refuse(Reject(source="a:1", reason="format.roles", detail="d"))
    assert (caught.value.code, caught.value.place) == ("format.roles", "a:1")


def test_turns_are_cut_after_an_answer() -> None:
    roles = ("system", "user", "assistant", "user", "assistant")
    messages = tuple(Message(role=role, text=role) for role in roles)  # type: ignore[arg-type]
    whole = Conversation(messages=messages, meta={"session": "s"})
    assert [len(cut_turns(whole, count).messages) for count in (1, 2, 3, None)] == [3, 5, 5, 5]
    assert cut_turns(whole, 1).meta == {"session": "s"}


LONG = '{"question": "请问明天下午的会议改到几点开始, 需要带什么材料%s", "answer": "三点半, 带上季度报告和电脑%s"}'


def test_similar_conversations_are_left_out_and_stay_on_one_side(tmp_path: Path) -> None:
    train = write(tmp_path / "t.jsonl", [PAIR % 1, PAIR % 1, LONG % ("", ""), LONG % ("?", ""), LONG % ("吗", "哦")])
    for dedup, wanted in (("off", [0] * 5), ("exact", [0, EXACT, 0, 0, 0]), ("near", [0, EXACT, 0, NEAR, NEAR])):
        intake = Intake(tmp_path, seed=0, dedup=dedup)  # type: ignore[arg-type]
        absorb_all(intake, take_all(intake, [(inspect(train), False)], None, has_val=False))
        is_val, fate = intake.decide(0.0, None)
        assert list(fate) == wanted
        assert intake.read == sum(intake.dropped.values()) + sum(tally.kept for tally in intake.tallies)
        intake.write_parts(is_val, fate)
    assert not (tmp_path / "signatures.bin").exists()
    details = [json.loads(line)["detail"] for line in intake.rejects.read_bytes().splitlines()]
    assert details[0] == "和 t.jsonl:1 相同, 只留那一段"
    assert details[1].startswith("和 t.jsonl:3 很像 (相似 0.")
    assert intake.some_pairs[1] == {
        "kept": "t.jsonl:3",
        "dropped": "t.jsonl:4",
        "similarity": intake.pairs[3].similarity,
    }


def test_what_is_like_val_is_not_trained_on(tmp_path: Path) -> None:
    val, train = (
        write(tmp_path / "v.jsonl", [LONG % ("", "")]),
        write(tmp_path / "t.jsonl", [LONG % ("?", ""), PAIR % 2]),
    )
    intake = Intake(tmp_path, seed=0, dedup="near")
    absorb_all(intake, take_all(intake, [(inspect(train), False), (inspect(val), True)], None, has_val=True))
    assert list(intake.decide(0.0, None)[1]) == [NEAR_VAL, KEPT, KEPT]
