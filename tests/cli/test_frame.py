"""What all commands share: JSON, exit codes, errors in the user's words."""

from __future__ import annotations

import json
from typing import Annotated

import pytest
import typer

from hantune.cli import VERBS, frame, main
from hantune.cli.frame import Answer, command, new_app, run_app
from hantune.errors import DataError, Interrupted
from hantune.log import console

app = new_app("试验")


@command(app, "try")
def attempt(kind: Annotated[str, typer.Argument(help="怎样结束")] = "good", number: int = 3) -> Answer:
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
    console.warn("留意")
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
    ],
)
def test_every_end_has_its_exit_code(
    kind: str, exit_code: int, code: str, capsys: pytest.CaptureFixture[str]
) -> None:
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
    import io
    import sys

    buffer = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(buffer, encoding="gbk"))
    frame.write_out("汉 😀\n")
    assert buffer.getvalue().decode("gbk") == "汉 ?\n"
