"""Every kind of file is a list of questions, with or without answers of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hantune.data.types import Conversation, Message, Reject
from hantune.infer.questions import Question, first_record, read_questions


def texts(items: list[Question | Reject]) -> list[tuple[list[str], str | None]]:
    return [([m.text for m in item.messages], item.reference) for item in items if isinstance(item, Question)]


def test_every_kind_of_record_is_a_question(tmp_path: Path) -> None:
    def read(name: str, text: str) -> list[tuple[list[str], str | None]]:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return texts(list(read_questions(path)))

    user, said = {"role": "user", "content": "问"}, {"role": "assistant", "content": "答"}
    assert read("a.jsonl", '{"prompt": "问"}\n') == [(["问"], None)]
    assert read("b.json", json.dumps([{"messages": [user]}, {"messages": [user, said]}])) == [
        (["问"], None),
        (["问"], "答"),
    ]
    assert read("c.json", json.dumps([[user, said, user]])) == [(["问", "答", "问"], None)]
    alpaca = [{"instruction": "问", "input": "料", "output": "答"}, {"instruction": "问", "input": "", "output": ""}]
    assert read("d.json", json.dumps(alpaca)) == [(["问\n料"], "答"), (["问"], None)]
    assert read("e.csv", "question,answer\n问,答\n问二,\n") == [(["问"], "答"), (["问二"], None)]
    assert read("f.csv", "question\n问\n") == [(["问"], None)]
    assert read("h.txt", "问一\n问二\n") == [(["问一"], None), (["问二"], None)]
    for name, value in {"target": "", "output": ""}.items():
        assert read("i.json", json.dumps([{"instruction": "问", "input": "料", name: value}])) == [(["问\n料"], None)]
    human = {"from": "human", "value": "问"}
    assert read("j.json", json.dumps([{"conversations": [human]}])) == [(["问"], None)]
    assert read("g.jsonl", '["一", "二", "三", "四"]\n') == [(["一", "二", "三"], "四")]


def test_prepared_folders_are_asked_their_validation_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Folder:
        def count(self, part: str) -> int:
            return 1

        def conversations(self, part: str) -> list[Conversation]:
            messages = (Message(role="user", text="问"), Message(role="assistant", text=part))
            return [Conversation(messages=messages, source="a:1")]

    for name in ("manifest.json", "train.parquet", "val.parquet"):
        (tmp_path / name).write_text('{"fingerprint": "x", "train": 1, "val": 1}', encoding="utf-8")
    monkeypatch.setattr("hantune.infer.questions.open_prepared", lambda path: Folder())
    assert texts(list(read_questions(tmp_path))) == [(["问"], "val")]


def test_the_first_record_is_the_first_whole_one(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{broken\n{"custom_id": "a"}\n', encoding="utf-8")
    assert first_record(path) == {"custom_id": "a"}
    path.write_text("{broken\n", encoding="utf-8")
    assert first_record(path) is None
