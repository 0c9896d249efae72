"""The chat under a reader and a writer, and the prompt file with every way of being wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hantune.data.types import Message
from hantune.errors import DataError
from hantune.infer.chat import ASK, COMMANDS, REPLY, ChatSession, answer_dialogues, read_dialogues
from hantune.infer.engine import Engine
from hantune.infer.sample import SamplingParams

PARAMS = SamplingParams(max_tokens=6)


class Screen:
    """A reader that types lines and a writer that remembers."""

    def __init__(self, *lines: str) -> None:
        self.lines = iter(lines)
        self.written: list[str] = []

    def read(self, prompt: str) -> str:
        assert prompt == ASK
        line = next(self.lines, None)
        if line is None:
            raise EOFError
        return line

    @property
    def text(self) -> str:
        return "".join(self.written)


def chat(engine: Engine, *lines: str, params: SamplingParams = PARAMS, system: str | None = None) -> tuple[Any, str]:
    screen = Screen(*lines)
    session = ChatSession(engine, params, read=screen.read, write=screen.written.append, system=system)
    session.run()
    return session, screen.text


def user(text: str) -> Message:
    return Message(role="user", text=text)


def test_the_banner_names_model_adapter_and_template(lora: Engine) -> None:
    _, text = chat(lora)
    assert [line.split() for line in text.splitlines()[:3]] == [
        ["模型", "tiny"],
        ["适配器", "adapter"],
        ["模板", "llama2"],
    ]


def test_questions_see_the_whole_history(llama: Engine) -> None:
    session, text = chat(llama, "你好", "你是谁？", "/exit", "不会问到")
    first = llama.answer([user("你好")], PARAMS).text
    second = llama.answer([user("你好"), Message(role="assistant", text=first), user("你是谁？")], PARAMS).text
    assert [message.text for message in session.history] == ["你好", first, "你是谁？", second]
    assert f"{REPLY}{first}" in text
    assert f"{REPLY}{second}" in text


def test_end_of_input_and_interrupt_end_the_chat(llama: Engine) -> None:
    screen = Screen()

    def interrupt(prompt: str) -> str:
        raise KeyboardInterrupt

    ChatSession(llama, PARAMS, read=interrupt, write=screen.written.append).run()
    assert screen.text.endswith("\n")


def test_reset_system_undo(llama: Engine) -> None:
    session, text = chat(llama, "/system 简短回答", "你好", "/undo", "/undo")
    assert [message.role for message in session.history] == ["system"]
    assert "已撤回: 你好" in text
    assert "还没有问过问题" in text
    session, _ = chat(llama, "你好", "/reset", system="简短回答")
    assert [message.text for message in session.history] == ["简短回答"]
    session, _ = chat(llama, "/system", system="简短回答")
    assert session.history == []


def test_retry_answers_the_same_question_again(llama: Engine) -> None:
    session, text = chat(llama, "你好", "/retry")
    assert text.count(session.history[-1].text) == 2
    assert len(session.history) == 2
    drawn = SamplingParams(max_tokens=6, temperature=1.0, seed=1)
    once, _ = chat(llama, "你好", params=drawn)
    again, _ = chat(llama, "你好", "/retry", params=drawn)
    assert once.history[1] != again.history[1]
    assert again.history == chat(llama, "你好", "/retry", params=drawn)[0].history


def test_why_shows_the_exact_prompt(llama: Engine) -> None:
    session, text = chat(llama, "你好", "/why", system="简短回答")
    prompt = llama.render(session.history[:-1])
    assert prompt.text == "<s>[INST] <<SYS>>\n简短回答\n<</SYS>>\n\n你好 [/INST]"
    assert f"\n{prompt.text}\n" in text
    assert f"共 {len(llama.prompt_ids(session.history[:-1]))} 个词元" in text


def test_base_answers_without_the_adapter_and_is_forgotten(lora: Engine, llama: Engine) -> None:
    session, text = chat(lora, "你好", "/base", "/why")
    assert text.count(REPLY) == 2
    assert REPLY + llama.answer([user("你好")], PARAMS).text in text
    assert session.history == [user("你好"), Message(role="assistant", text=lora.answer([user("你好")], PARAMS).text)]
    assert "没有适配器" in chat(llama, "你好", "/base")[1]


def test_save_writes_what_prepare_reads_and_spares_other_files(llama: Engine, tmp_path: Path) -> None:
    from hantune.data.sources import expand, inspect, read_rows

    path = tmp_path / "我的 对话.json"
    other = tmp_path / "other.json"
    other.write_text("[]", encoding="utf-8")
    session, text = chat(llama, "你好", f"/save {path}", "再见", f"/save {path}", f"/save {other}", "/save")
    rows = list(read_rows(inspect(expand(str(path))[0])))
    assert [message["content"] for message in rows[0].value["messages"]] == [m.text for m in session.history]
    assert other.read_text(encoding="utf-8") == "[]"
    assert "换一个名字" in text
    assert "写上文件名" in text


def test_help_names_every_command_and_unknown_ones_are_said(llama: Engine) -> None:
    _, text = chat(llama, "/help", "/nonsense", "//etc 是什么", "/retry")
    assert all(name in text for name in COMMANDS)
    assert "没有这个命令" in text
    session, _ = chat(llama, "//etc 是什么")
    assert session.history[0].text == "/etc 是什么"


def test_long_chats_forget_whole_oldest_turns(llama: Engine) -> None:
    llama.limit = 120
    session, text = chat(llama, *("今天天气很好，我们去公园散步吧。" for _ in range(6)), system="简短回答")
    assert "已忘掉最前面的" in text
    assert session.history[0].role == "system"
    assert len(llama.prompt_ids(session.history[:-1])) < 120


def test_a_question_too_long_is_taken_back(llama: Engine) -> None:
    llama.limit = 40
    session, text = chat(llama, "今天天气很好" * 20)
    assert "没有地方放回答了" in text
    assert session.history == []


def test_interrupting_an_answer_keeps_what_was_said(llama: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[bool] = []

    def stream(messages: object, params: object) -> Iterator[str]:
        try:
            yield "半句"
            raise KeyboardInterrupt
        finally:
            closed.append(True)

    monkeypatch.setattr(llama, "stream", stream)
    session, text = chat(llama, "你好")
    assert closed == [True]
    assert "半句  (已停下)" in text
    assert session.history[-1].text == "半句"


def test_an_answer_cut_off_by_the_limit_says_so(llama: Engine) -> None:
    assert "(到了长度上限)" in chat(llama, "你好")[1]


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
