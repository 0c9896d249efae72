"""What is exported reads back as what it was, and what a layout cannot say is counted, not bent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hantune.data.export import LAYOUTS, export
from hantune.data.formats import FORMATS
from hantune.data.formats.common import plain
from hantune.data.prepare import prepare
from hantune.data.prepared import Prepared, open_prepared
from hantune.data.types import Conversation, Message, Row
from hantune.errors import ConfigError, DataError, HantuneError, RunError

Q, A = Message(role="user", text="问"), Message(role="assistant", text="答")
SYSTEM, MUTED = Message(role="system", text="规矩"), Message(role="assistant", text="不学", learn=False)


class Some(Prepared):
    """Prepared data that lie nowhere."""

    def __init__(self, *conversations: list[Message]) -> None:
        self._conversations = [Conversation(messages=tuple(messages), source="a:1") for messages in conversations]

    def conversations(self, part: str) -> Any:
        return iter(self._conversations)


def told(conversations: Any) -> list[list[tuple[str, str, bool]]]:
    return [[(m.role, m.text, m.is_learned) for m in conversation.messages] for conversation in conversations]


TALKS = [[Q, A], [SYSTEM, Q, A, Q, A], [Q, A, Q, Message(role="assistant", text='第一行\n第二行 \\ " ,')]]


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_round_trip_through_prepare(tmp_path: Path, layout: str, suffix: str) -> None:
    out = tmp_path / "out" / f"a{suffix}"
    result = export(Some(*TALKS), layout, out)
    assert (result["written"], result["left_out"]) == (3, {})
    manifest = prepare([str(out.parent)], tmp_path / "again", val_share=0)
    assert manifest["kept"] == 3
    again = open_prepared(tmp_path / "again")
    assert told(again.conversations("train")) == told(Some(*TALKS).conversations("train"))
    assert not list(out.parent.glob(".*"))


TEXT = st.text(max_size=12).map(plain).filter(bool)
PAIRS = st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=3)


@pytest.mark.parametrize("layout", LAYOUTS)
@given(PAIRS, st.none() | TEXT)
def test_any_conversation_is_written_right_or_left_out(layout: str, pairs: Any, system: str | None) -> None:
    messages = [Message(role="system", text=system)] if system else []
    for question, answer in pairs:
        messages += [Message(role="user", text=question), Message(role="assistant", text=answer)]
    record = json.loads(json.dumps(LAYOUTS[layout].write(messages)))
    (back,) = FORMATS[LAYOUTS[layout].format].read(Row(value=record, source="a:1"))
    assert told([back]) == told([Conversation(messages=tuple(messages))])


def test_what_a_layout_cannot_say_is_left_out_and_counted(tmp_path: Path) -> None:
    text = Message(role="assistant", text="只有文字")
    human = Message(role="user", text="Human: 引号里的\nAssistant: 话")
    some = Some([Q, A], [Q, MUTED, Q, A], [text], [human, A])
    assert export(some, "messages", tmp_path / "a.jsonl")["left_out"] == {}
    for layout in ("alpaca", "sharegpt"):
        result = export(some, layout, tmp_path / f"{layout}.jsonl")
        assert result["left_out"]["有不学的回答, 这种写法没有办法说"] == 1
        assert result["left_out"]["只有文字, 没有问题"] == 1
        assert result["written"] + sum(result["left_out"].values()) == 4
    assert result["written"] == 2
    lines = (tmp_path / "a.jsonl").read_text("utf-8").splitlines()
    read = [next(iter(FORMATS["messages"].read(Row(value=json.loads(line), source="")))) for line in lines]
    assert told(read) == told(some.conversations("train"))


def test_llamafactory_has_its_entry_and_keeps_the_others(tmp_path: Path) -> None:
    (tmp_path / "dataset_info.json").write_text('{"别人的": {"file_name": "b.json"}}', encoding="utf-8")
    result = export(Some([Q, A]), "llamafactory", tmp_path / "我的.json")
    info = json.loads((tmp_path / "dataset_info.json").read_text("utf-8"))
    assert set(info) == {"别人的", "我的"}
    assert info["我的"]["formatting"] == "sharegpt"
    assert result["files"] == [str(tmp_path / "我的.json"), str(tmp_path / "dataset_info.json")]
    (tmp_path / "dataset_info.json").write_text("[", encoding="utf-8")
    assert code(Some([Q, A]), "llamafactory", tmp_path / "b.json") == "export.broken-info"
    assert not (tmp_path / "b.json").exists()


def code(data: Prepared, layout: str, out: Path) -> str:
    with pytest.raises(HantuneError) as caught:
        export(data, layout, out)
    assert isinstance(caught.value, (ConfigError, DataError, RunError))
    return caught.value.code


def test_refusals(tmp_path: Path) -> None:
    assert code(Some([Q, A]), "excel", tmp_path / "a.json") == "export.unknown-layout"
    assert code(Some([Q, A]), "alpaca", tmp_path / "a.xlsx") == "export.bad-name"
    (tmp_path / "a.json").write_text("[]", encoding="utf-8")
    assert code(Some([Q, A]), "alpaca", tmp_path / "a.json") == "run.exists"
    assert export(Some([Q, A]), "alpaca", tmp_path / "a.json", replace=True)["written"] == 1
    assert code(Some([Q, MUTED]), "alpaca", tmp_path / "b.json") == "export.nothing-left"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json"]
