"""``--me`` asked for in a terminal, as a user meets it: a real pseudo-terminal, the real commands."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hantune.cli import main

pty = pytest.importorskip("pty", reason="no pseudo-terminals on this system")


class Terminal:
    """The user's end of a pseudo-terminal."""

    def __init__(self, ours: int, theirs: int) -> None:
        self.ours, self.theirs = ours, theirs

    def main(self, *words: str, typed: str = "") -> int:
        """The command with this end as stdin and stderr."""
        os.write(self.ours, typed.encode())
        with (
            open(os.dup(self.theirs), encoding="utf-8") as stdin,
            open(os.dup(self.theirs), "w", encoding="utf-8") as stderr,
            pytest.MonkeyPatch.context() as patch,
        ):
            patch.setattr(sys, "stdin", stdin)
            patch.setattr(sys, "stderr", stderr)
            return main(list(words))

    def shown(self) -> str:
        """What stood there, with what was typed."""
        return os.read(self.ours, 1 << 16).decode()


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    ours, theirs = pty.openpty()
    yield Terminal(ours, theirs)
    os.close(ours)
    os.close(theirs)


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    people = [("小满", 1001), ("阿强", 2002), ("强哥", 3003)]
    lines = ["time,sender,sender_id,text"]
    for turn in range(12):
        name, number = people[turn % 3]
        lines.append(f"2024-01-02 10:{turn:02d}:00,{name},{number},第{turn}句话说点什么好呢")
    Path("log.csv").write_text("\n".join(lines), encoding="utf-8")
    return "log.csv"


def me_of(out: str) -> tuple[int, list[str]]:
    from hantune.data.prepared import open_prepared

    prepared = open_prepared(Path(out))
    answers = [m.text for c in prepared.conversations("train") for m in c.messages if m.role == "assistant"]
    return int(prepared.manifest["flags"]["me"]), answers


def test_a_number_of_the_list_is_the_same_as_the_flag(log: str, terminal: Terminal) -> None:
    assert terminal.main("data", "prepare", log, "--out", "asked", typed="2\n") == 0
    assert main(["data", "prepare", log, "--out", "told", "--me", "2002"]) == 0
    assert Path("asked/manifest.json").read_bytes() == Path("told/manifest.json").read_bytes()
    assert me_of("asked")[0] == 1
    shown = terminal.shown()
    for words in ("log.csv: 不知道哪一个是你", "1. 小满 (1001)  4 条", '下次可以直接写: --me "2002"'):
        assert words in shown


def test_several_numbers_names_and_a_slip(log: str, terminal: Terminal) -> None:
    assert terminal.main("data", "prepare", log, "--out", "out", typed="9\n2, 强哥\n") == 0
    assert "没有 9, 再写一次" in terminal.shown()
    count, answers = me_of("out")
    assert count == 2
    assert all("第0句" not in answer for answer in answers)


def test_a_wrong_name_is_asked_about_too(log: str, terminal: Terminal) -> None:
    assert terminal.main("data", "prepare", log, "--out", "out", "--me", "路人", typed="1\n") == 0


@pytest.mark.parametrize("verb", ["look", "stats"])
def test_other_verbs_ask_as_well(log: str, terminal: Terminal, verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert terminal.main("data", verb, log, typed="1\n") == 0


def test_an_empty_answer_is_none(log: str, terminal: Terminal) -> None:
    assert terminal.main("data", "prepare", log, "--out", "out", typed="\n") == 5
    assert not Path("out").exists()


@pytest.mark.parametrize("flag", ["--json", "--quiet"])
def test_programs_are_never_asked(log: str, terminal: Terminal, flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert terminal.main("data", "prepare", log, "--out", "out", flag) == 5
    if flag == "--json":
        assert json.loads(capsys.readouterr().out)["error"]["code"] == "chatlog.who-am-i"


def test_a_pipe_is_never_asked(log: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "prepare", log, "--out", "out"]) == 5
    assert "chatlog.who-am-i" in capsys.readouterr().err
