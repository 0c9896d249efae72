"""``hantune chat`` as a user types it: piped, with a prompt file, and in a terminal."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from hantune.cli import main
from hantune.data.types import Message
from hantune.infer.engine import Completion, Engine, open_engine
from hantune.infer.sample import SamplingParams

SHORT = ["--max-new-tokens", "5"]


class Piped(io.TextIOWrapper):
    """Standard input from a pipe."""

    def __init__(self, data: bytes, terminal: bool = False) -> None:
        super().__init__(io.BytesIO(data), encoding="utf-8")
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


@pytest.fixture
def answer(tiny_llama_folder: Path) -> str:
    engine = open_engine(tiny_llama_folder, device="cpu")
    return engine.answer([Message(role="user", text="你好")], SamplingParams(max_tokens=5)).text


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030"])
def test_a_piped_question_gives_the_answer_alone(
    tiny_llama_folder: Path,
    answer: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    encoding: str,
) -> None:
    monkeypatch.setattr(sys, "stdin", Piped("你好\n".encode(encoding)))
    assert main(["chat", str(tiny_llama_folder), *SHORT]) == 0
    assert capsys.readouterr().out == answer + "\n"


def test_an_empty_pipe_is_a_usage_error(
    tiny_llama_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", Piped(b" \n"))
    assert main(["chat", str(tiny_llama_folder), "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "infer.no-question"


def test_without_a_model_the_latest_run_is_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", Piped("你好".encode()))
    assert main(["chat", "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "run.none"


def test_the_dialogues_of_a_file(
    tiny_llama_folder: Path, tmp_path: Path, answer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "chat.json"
    path.write_text(' \n [[{"role": "user", "content": "你好"}]]', encoding="utf-8")
    command = ["chat", str(tiny_llama_folder), "--prompt-file", str(path), *SHORT]
    assert main([*command, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)["result"]
    assert found == {
        "answers": [{"messages": [{"role": "user", "content": "你好"}], "answer": answer, "finish_reason": "length"}]
    }
    assert main(command) == 0
    assert capsys.readouterr().out == f"user: 你好\nanswer: {answer}\n"


def test_bad_settings_are_told_before_the_model_is_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chat", "nowhere", "--temperature", "-1", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "infer.sampling"
    assert main(["chat", "nowhere", "--prompt-file", "nowhere.json", "--json"]) == 5


@pytest.mark.parametrize("kept", ["screen", "file", "json"])
def test_a_session_in_a_terminal(
    kept: str, tiny_llama_folder: Path, answer: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is kept is the conversation alone; it is talked where the person sees it."""
    monkeypatch.setattr(sys, "stdin", Piped("你好\n/exit\n".encode(), terminal=True))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: kept == "screen")
    assert main(["chat", str(tiny_llama_folder), *SHORT, *(["--json"] if kept == "json" else [])]) == 0
    out, err = capsys.readouterr()
    shown = out if kept == "screen" else err
    assert str(tiny_llama_folder) in shown
    assert f"答> {answer}  (到了长度上限)\n" in shown
    if kept == "file":
        assert out == f"user: 你好\nassistant: {answer}\n"
    if kept == "json":
        told = [{"role": "user", "content": "你好"}, {"role": "assistant", "content": answer}]
        assert json.loads(out)["result"] == {"messages": told}


@pytest.mark.parametrize("is_screen", [True, False])
def test_a_piped_answer_comes_as_it_is_made(
    is_screen: bool, tiny_llama_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each piece is out before the next is made; a screen is spared what could move its cursor."""
    seen = []

    def stream(self: Engine, messages: Any, params: Any) -> Generator[str, None, Completion]:
        for piece in ("一\x1b", "二", "三"):
            yield piece
            seen.append(capsys.readouterr().out)
        return Completion(text="一\x1b二三", ids=(1, 2, 3), finish_reason="stop", prompt_tokens=1)

    monkeypatch.setattr(Engine, "stream", stream)
    monkeypatch.setattr(sys, "stdin", Piped("你好".encode()))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_screen)
    assert main(["chat", str(tiny_llama_folder)]) == 0
    assert [*seen, capsys.readouterr().out] == ["一?" if is_screen else "一\x1b", "二", "三", "\n"]


def test_a_piped_answer_that_was_cut_says_so_beside_it(
    tiny_llama_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", Piped("你好".encode()))
    assert main(["chat", str(tiny_llama_folder), *SHORT]) == 0
    assert "--max-new-tokens 5" in capsys.readouterr().err
