"""The prompt file with every way of being wrong, and its answers in order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hantune.data.types import Message
from hantune.errors import DataError
from hantune.infer.dialogues import answer_dialogues, read_dialogues
from hantune.infer.engine import Engine
from hantune.infer.sample import SamplingParams

PARAMS = SamplingParams(max_tokens=6)


def user(text: str) -> Message:
    return Message(role="user", text=text)


def write(path: Path, value: Any, before: str = "", encoding: str = "utf-8") -> Path:
    path.write_bytes((before + json.dumps(value, ensure_ascii=False)).encode(encoding))
    return path


@pytest.mark.parametrize(
    ("before", "encoding"), [("", "utf-8"), (" \n\t ", "utf-8"), ("", "utf-8-sig"), ("", "gb18030")]
)
def test_prompt_files_are_read(tmp_path: Path, before: str, encoding: str) -> None:
    value = [
        [{"role": "user", "content": "你好"}],
        [
            {"role": "system", "content": "简短回答"}, {"role": "user", "content": "一"},
            {"role": "assistant", "content": "二"}, {"role": "user", "content": "三"},
        ],
    ]  # fmt: skip
    dialogues = read_dialogues(write(tmp_path / "chat.json", value, before, encoding))
    assert [[message.text for message in dialogue] for dialogue in dialogues] == [
        ["你好"],
        ["简短回答", "一", "二", "三"],
    ]


GOOD = [{"role": "user", "content": "你好"}]
SAID = {"role": "assistant", "content": "好"}


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ({"role": "user"}, None), ([], None), ([GOOD, []], 2), ([GOOD, "你好"], 2), ([[{"role": "user"}]], 1),
        ([[{"role": "user", "content": 3}]], 1), ([[*GOOD, *GOOD]], 1), ([[SAID]], 1), ([GOOD, [*GOOD, SAID]], 2),
        ([[*GOOD, {"role": "system", "content": "x"}]], 1), ([[{"role": "system", "content": "x"}]], 1),
    ],
)  # fmt: skip
def test_bad_prompt_files_name_the_dialogue(tmp_path: Path, value: Any, place: int | None) -> None:
    with pytest.raises(DataError) as caught:
        read_dialogues(write(tmp_path / "chat.json", value))
    assert caught.value.code == "infer.prompt-file"
    assert ("第" in str(caught.value.place)) == (place is not None)
    assert place is None or f"第 {place} 段对话" in str(caught.value.place)


def test_prompt_files_that_are_no_json_or_not_there(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[[", encoding="utf-8")
    for name in ("a.json", "b.json"):
        with pytest.raises(DataError) as caught:
            read_dialogues(tmp_path / name)
        assert caught.value.code == "infer.prompt-file"


def test_dialogues_are_answered_in_order(llama: Engine) -> None:
    dialogues = [[user("推荐一道家常菜。今天天气很好")], [user("你好")]]
    assert answer_dialogues(llama, dialogues, PARAMS) == [llama.answer(dialogue, PARAMS) for dialogue in dialogues]
