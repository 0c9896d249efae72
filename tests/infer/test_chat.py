"""The chat under a reader and a writer, and the prompt file with every way of being wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hantune.data.types import Message
from hantune.infer.chat import ASK, BASE_REPLY, COMMANDS, REPLY, ChatSession
from hantune.infer.engine import Engine
from hantune.infer.sample import SamplingParams

PARAMS = SamplingParams(max_tokens=6)
INTERRUPT = "Ctrl-C"


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
        if line is INTERRUPT:
            raise KeyboardInterrupt
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


@pytest.mark.parametrize("command", ["/exit", "/quit"])
def test_exit_ends_the_chat(llama: Engine, command: str) -> None:
    assert chat(llama, command, "不会问到")[0].history == []


def test_interrupt_at_the_prompt_ends_the_chat_the_second_time(llama: Engine) -> None:
    screen = Screen(INTERRUPT, "你好", INTERRUPT, INTERRUPT, "不会问到")
    session = ChatSession(llama, PARAMS, read=screen.read, write=screen.written.append)
    session.run()
    assert [message.role for message in session.history] == ["user", "assistant"]
    assert screen.text.count("再按一次 Ctrl-C 就结束") == 2


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


def test_why_shows_the_exact_prompt_and_how_it_ended(llama: Engine) -> None:
    session, text = chat(llama, "你好", "/why", system="简短回答")
    prompt = llama.render(session.history[:-1])
    assert prompt.text == "<s>[INST] <<SYS>>\n简短回答\n<</SYS>>\n\n你好 [/INST]"
    assert f"\n{prompt.text}\n" in text
    assert f"{len(llama.prompt_ids(session.history[:-1]))} 个词元" in text
    assert "'</s>'" in text
    assert "max_new_tokens=6  temperature=0.0" in text
    assert "到了长度上限 (length), 回答 6 个词元" in text
    assert "还没有问过问题" in chat(llama, "/why")[1]


def test_why_tells_what_was_asked_then_not_what_is_set_now(lora: Engine) -> None:
    _, text = chat(lora, "你好", "/params temperature=0.5", "/base", "/undo", "/why")
    told = text[text.index("已撤回") :]
    assert "发给底座的原文" in told
    assert "temperature=0.5" in told
    assert "你好 [/INST]" in told


def test_parameters_are_shown_changed_and_checked(llama: Engine) -> None:
    session, text = chat(llama, "/params temperature=0.5 seed=7 max_new_tokens=3", "/params seed=none", "/params")
    assert session.params == SamplingParams(max_tokens=3, temperature=0.5)
    assert "temperature=0.5" in text
    for typed, told in {
        "temprature=1": "是不是 temperature?",
        "top_p=2": "top_p 不能是 2.0",
        "top_k=x": "top_k=整数",
        "seed": "seed=整数",
    }.items():
        session, text = chat(llama, f"/params {typed}")
        assert told in text
        assert session.params == PARAMS


def test_base_answers_without_the_adapter_and_is_forgotten(lora: Engine, llama: Engine) -> None:
    session, text = chat(lora, "你好", "/base")
    assert text.count(REPLY) == 1
    assert BASE_REPLY + llama.answer([user("你好")], PARAMS).text in text
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
    _, text = chat(llama, "/help", "/nonsense", "/wyh", "／why")
    assert all(name in text for name in COMMANDS)
    assert "没有这个命令: /nonsense\n" in text
    assert "没有这个命令: /wyh  是不是 /why?" in text
    assert "还没有问过问题" in text
    session, _ = chat(llama, "//etc 是什么")
    assert session.history[0].text == "/etc 是什么"


def test_of_long_chats_the_model_sees_the_last_whole_turns(llama: Engine) -> None:
    llama.limit = 120
    session, text = chat(llama, *("今天天气很好，我们去公园散步吧。" for _ in range(6)), "/why", system="简短回答")
    assert "模型已看不到最前面的" in text
    assert len(session.history) == 13
    shown = text.split("以上是发给模型的原文: ")[1]
    assert int(shown.split()[0]) < 120
    assert "简短回答" in text


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


def test_control_characters_of_an_answer_do_not_reach_the_terminal(
    llama: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llama, "stream", lambda *_: iter(["\x1b[2J好\n\x9b1m"]))
    session, text = chat(llama, "你好", "/why")
    assert f"{REPLY}?[2J好\n?1m" in text
    assert session.history[-1].text == "\x1b[2J好\n\x9b1m"


def test_retry_says_that_greedy_answers_do_not_change(llama: Engine) -> None:
    assert "temperature=0.8" in chat(llama, "你好", "/retry")[1]
    assert "temperature=0.8" not in chat(llama, "你好", "/params temperature=1", "/retry")[1]
