"""What all commands share: JSON, exit codes, errors in the user's words."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import pytest
import typer

from hantune.cli import VERBS, frame, main
from hantune.cli.frame import Answer, command, new_app, run_app
from hantune.errors import DataError, Interrupted
from hantune.log import console

app = new_app("试验")


@command(app, "try")
def attempt(
    kind: Annotated[str, typer.Argument(help="怎样结束")] = "good", number: int = 3, out: Path = Path(".")
) -> Answer:
    """试一试."""
    if kind == "error":
        raise DataError("source.empty", "文件是空的", place="a.jsonl", hint="换一个文件")
    if kind == "bug":
        raise ZeroDivisionError("planted")
    if kind == "stop":
        raise KeyboardInterrupt
    if kind == "term":
        raise Interrupted(15, "停了", hint="hantune resume x")
    if kind == "memory":
        raise MemoryError
    if kind == "sigterm":
        with contextlib.suppress(Exception):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
    if kind == "unreadable":
        raise PermissionError(errno.EACCES, "Permission denied", "secret.json")
    console.warn("留意")
    if out != Path("."):
        return Answer(text=str(out))
    return Answer(result={"number": number}, text=f"数 {number}")


def run(*words: str) -> int:
    return run_app({"try": (__name__, "试一试")}, ["try", *words])


def test_text_goes_to_stdout_and_the_rest_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("good", "--number", "5") == 0
    out, err = capsys.readouterr()
    assert out == "数 5\n"
    assert err == "! 留意\n"


def test_json_is_one_object_with_the_agreed_members(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--json") == 0
    assert json.loads(capsys.readouterr().out) == {
        "ok": True, "command": "try", "result": {"number": 3}, "warnings": ["留意"], "error": None,
    }  # fmt: skip


def test_an_error_has_code_cause_place_and_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("error") == 5
    err = capsys.readouterr().err
    for piece in ("source.empty", "文件是空的", "a.jsonl", "换一个文件", "docs/troubleshooting/source.empty.md"):
        assert piece in err
    assert run("error", "--json") == 5
    answer = json.loads(capsys.readouterr().out)
    assert answer["ok"] is False
    assert answer["error"] == {
        "code": "source.empty", "message": "文件是空的", "place": "a.jsonl", "hint": "换一个文件",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "exit_code", "code"),
    [
        ("bug", 1, "internal.unexpected"),
        ("stop", 130, "run.interrupted"),
        ("term", 143, "run.interrupted"),
        ("memory", 6, "machine.out-of-memory"),
        ("sigterm", 143, "run.interrupted"),
        ("unreadable", 6, "machine.no-write"),
    ],
)
def test_every_end_has_its_exit_code(kind: str, exit_code: int, code: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(kind, "--json") == exit_code
    assert json.loads(capsys.readouterr().out)["error"]["code"] == code


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    run("bug", "--debug")
    assert "ZeroDivisionError" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["try", "--numbr", "3"], "--number"),
        (["tyr"], "没有这个命令: tyr  是不是 try?"),
        (["try", "--number", "x"], "--number"),
        (["try", "a", "b"], "多余"),
        (["try", "--number", "x"], "--number 的值不对: 要一个整数"),
        (["try", "--number"], "hantune try --help"),
        (["try", "--quiet=1"], "选项 --quiet 后面不带值"),
    ],
)
def test_a_wrong_word_is_a_usage_error_with_the_nearest(
    words: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app({"try": (__name__, "试一试")}, words) == 2
    err = capsys.readouterr().err
    assert "cli.usage" in err
    assert text in err


def test_no_word_shows_the_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    out = capsys.readouterr().out
    assert all(verb in out for verb in VERBS)
    assert main(["--version"]) == 0
    assert "hantune 0." in capsys.readouterr().out


def test_a_gbk_stdout_gets_question_marks_not_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(buffer, encoding="gbk"))
    frame.write_out("汉 😀\n")
    assert buffer.getvalue().decode("gbk") == "汉 ?\n"


def test_json_on_a_gbk_stdout_loses_no_character(monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(buffer, encoding="gbk"))
    frame._print("try", True, Answer(result={"answer": "汉 😀"}))
    assert json.loads(buffer.getvalue().decode("ascii"))["result"] == {"answer": "汉 😀"}


def test_sigterm_is_the_systems_own_again_afterwards() -> None:
    before = signal.getsignal(signal.SIGTERM)
    run("good")
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_tilde_in_a_path_is_the_home(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--out", "~/x") == 0
    assert capsys.readouterr().out == f"{Path.home() / 'x'}\n"


def test_closed_streams_are_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    assert run("good") == 0
    assert run("error", "--json") == 5


class Full(io.StringIO):
    """A file on a full disk."""

    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_an_answer_that_cannot_be_written_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", Full())
    assert run("good") == 6
    assert "结果写不出去: 磁盘满了" in capsys.readouterr().err


def test_ctrl_c_during_the_imports_prints_no_traceback() -> None:
    early = (
        "import os, sys, signal, hantune.__main__ as m\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a background job of a shell ignores it
        "class Finder:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name == 'hantune.cli': os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder())\n"
        "m.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", early], capture_output=True, check=False)
    assert done.returncode == -signal.SIGINT
    assert done.stderr == b""
