"""``hantune data`` as a user meets it: what it says, what it returns, how it ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from hantune.cli import main
from tests.cli.answers import envelope, write, write_questions


@pytest.fixture
def source(tmp_path: Path) -> str:
    return write_questions(tmp_path / "a.jsonl")


def test_prepare_tells_what_it_did(source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["data", "prepare", source, "--out", str(out)]) == 0
    text = capsys.readouterr().out
    for words in (
        "读入  a.jsonl  编码 UTF-8  41 条, 留下 40 条",
        "像 pairs",
        "去掉  1 条 回答是空的",
        "hantune data look",
    ):
        assert words in text
    text.encode("gbk")
    assert main(["data", "prepare", source, "--out", str(out)]) == 0
    assert "已经整理过" in capsys.readouterr().err


def test_prepare_json(source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = envelope(capsys, "data", "prepare", source, "--out", str(tmp_path / "out"), "--max-samples", "9")
    assert (code, found["ok"], found["command"]) == (0, True, "data prepare")
    assert found["result"]["train"] == 9


@pytest.mark.parametrize(
    ("words", "exit_code", "error"),
    [
        (["{folder}/没有.json"], 5, "source.missing"),
        (["{folder}/a.jsonl", "--strict"], 5, "format.empty-answer"),
        (["{folder}/a.jsonl", "--format", "alpacca"], 2, "format.unknown-name"),
        (["{folder}/a.jsonl", "--val-share", "2"], 2, "cli.usage"),
        (["{folder}/a.jsonl", "--dedup", "some"], 2, "cli.usage"),
        (["{folder}/a.jsonl", "--clean", "emojis"], 2, "clean.unknown-rule"),
        (["{folder}/a.jsonl", "--block-words", "{folder}/no.txt"], 2, "clean.no-words"),
    ],
)
def test_prepare_errors(
    source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], exit_code: int, error: str
) -> None:
    words = [word.format(folder=tmp_path) for word in words]
    code, found = envelope(capsys, "data", "prepare", *words, "--out", str(tmp_path / "out"))
    assert (code, found["error"]["code"]) == (exit_code, error)


def test_prepare_tells_what_it_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = [f"第{i}次: 明天下午的会议改到几点开始, 要带什么 材料" for i in (1, 2)]
    records = [{"question": text, "answer": "改到三点半, 打13800138000问小王"} for text in asked]
    source = write(tmp_path / "a.jsonl", [*records, records[0]])
    words = ["--pii", "mask", "--dedup", "near", "--clean", "default"]
    assert main(["data", "prepare", source, "--out", str(tmp_path / "out"), *words]) == 0
    text = capsys.readouterr().out
    for line in ("清洗  spaces 改了 3 句", "隐私  手机 3 处, 换成了代号", "重复  相同的去掉 1 段, 很像的去掉 1 段"):
        assert line in text


def test_a_chat_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = ["time,sender,text"]
    for number in range(6):
        rows += [
            f"2024-10-04 1{number}:00:00,张三,第{number}个问题",
            f"2024-10-04 1{number}:00:30,小李,第{number}个回答",
        ]
    path = tmp_path / "log.csv"
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    code, found = envelope(capsys, "data", "prepare", str(path), "--out", str(tmp_path / "out"))
    assert (code, found["error"]["code"]) == (5, "chatlog.who-am-i")
    assert main(["data", "prepare", str(path), "--out", str(tmp_path / "out"), "--me", "小李"]) == 0
    assert "聊天  读了 12 条消息, 得到 6 段对话, 6 个回答, 用上 12 条" in capsys.readouterr().out
    code, found = envelope(capsys, "data", "look", str(path), "--me", "小李", "-n", "1")
    assert found["result"]["conversations"][0]["messages"][-1]["content"].endswith("个回答")


def test_export_is_there(source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["data", "prepare", source, "--out", str(tmp_path / "out")])
    capsys.readouterr()
    words = ["data", "export", str(tmp_path / "out"), "--to", "alpaca", "--out", str(tmp_path / "a.json")]
    assert main(words) == 0
