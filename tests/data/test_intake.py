"""The pass over the sources: formats told from the first rows, tallies by source, long records cut in the rejects."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hantune.data.intake import FREE, IN_VAL, KEPT, VAL, Intake, cut_turns, open_format, refuse, reject_line
from hantune.data.sources import inspect
from hantune.data.types import Conversation, Message, Reject, Row
from hantune.errors import DataError


def write(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


PAIR = '{"question": "问%d", "answer": "答"}'


def test_broken_first_rows_do_not_hide_the_format(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", ["{broken"] * 60 + [PAIR % 1])
    found, records = open_format(inspect(path), None)
    assert found.name == "pairs"
    items = [item for _, item in records]
    assert [type(item) for item in items] == [Reject] * 60 + [Row]


def test_each_source_has_its_own_format_and_tally(tmp_path: Path) -> None:
    first = write(tmp_path / "a.jsonl", [PAIR % i for i in range(5)] + ["{broken"])
    second = write(tmp_path / "b.jsonl", ['["问", "答"]', '["只有问"]'])
    intake = Intake(tmp_path, seed=0)
    intake.run([(inspect(first), False), (inspect(second), True)], None, has_val=True)
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
    intake.run([(inspect(val), True), (inspect(train), False)], None, has_val=True)
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
    whole = Conversation(messages=tuple(Message(role=role, text=role) for role in roles))  # type: ignore[arg-type]
    assert [len(cut_turns(whole, count).messages) for count in (1, 2, 3)] == [3, 5, 5]
