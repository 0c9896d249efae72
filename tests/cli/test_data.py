"""``hantune data`` as a user meets it: what it says, what it returns, how it ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hantune.cli import main


def write(path: Path, records: list[Any]) -> str:
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return str(path)


@pytest.fixture
def source(tmp_path: Path) -> str:
    records: list[Any] = [{"question": f"第{i}个问题", "answer": f"第{i}个回答, 写得长一点"} for i in range(40)]
    return write(tmp_path / "a.jsonl", [*records, {"question": "没有回答", "answer": ""}])


def envelope(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
    code = main([*words, "--json"])
    return code, json.loads(capsys.readouterr().out)


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
    assert "聊天  12 条消息, 用上 12 条, 得到 6 个回答" in capsys.readouterr().out
    code, found = envelope(capsys, "data", "look", str(path), "--me", "小李", "-n", "1")
    assert found["result"]["conversations"][0]["messages"][-1]["content"].endswith("个回答")


def test_look_at_raw_and_prepared(source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "look", source, "--number", "41"]) == 0
    raw = capsys.readouterr().out
    assert "问  第0个问题\n答  第0个回答, 写得长一点" in raw
    assert "有 1 条不能用" in raw
    main(["data", "prepare", source, "--out", str(tmp_path / "out")])
    capsys.readouterr()
    code, found = envelope(capsys, "data", "look", str(tmp_path / "out"), "-n", "2")
    assert code == 0
    assert [c["source"] for c in found["result"]["conversations"]] == ["a.jsonl:1", "a.jsonl:2"]


def test_look_with_a_model_shows_the_mask(
    source: str, tiny_llama_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["data", "look", source, "-n", "1", "--model", str(tiny_llama_folder), "--template", "llama2"]
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "<s>[INST] 第0个问题 [/INST]【" in text
    code, found = envelope(capsys, *words)
    (shown,) = found["result"]["conversations"]
    assert code == 0
    assert len(shown["ids"]) == len(shown["mask"])
    assert sum(shown["mask"]) > 0


def test_stats(source: str, sp_tokenizer_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "stats", source]) == 0
    assert "对话    40 段" in capsys.readouterr().out
    code, found = envelope(capsys, "data", "stats", source, "--model", str(sp_tokenizer_folder), "--template", "llama2")
    assert code == 0
    assert found["result"]["rejected"] == {"format.empty-answer": 1}
    assert found["result"]["tokens"]["supervised_share"] > 0


def test_check(source: str, tmp_path: Path, tiny_llama_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out")
    main(["data", "prepare", source, "--out", out])
    capsys.readouterr()
    words = ["data", "check", out, "--model", str(tiny_llama_folder), "--template", "llama2"]
    code, found = envelope(capsys, *words)
    assert (code, found["error"]) == (0, None)
    assert found["result"]["template"] == "llama2"
    code, found = envelope(capsys, "data", "check", str(tmp_path), "--model", str(tiny_llama_folder))
    assert (code, found["error"]["code"]) == (5, "data.not-prepared")
    (tmp_path / "out" / "val.parquet").write_bytes((tmp_path / "out" / "train.parquet").read_bytes())
    code, found = envelope(capsys, *words)
    assert (code, found["error"]["code"]) == (5, "split.overlap")


def test_check_against(source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out")
    main(["data", "prepare", source, "--out", out])
    capsys.readouterr()
    code, found = envelope(capsys, "data", "check", out)
    assert (code, found["error"]["code"]) == (2, "cli.usage")
    other = write(tmp_path / "o.jsonl", [{"question": "完全不同的另一个题目", "answer": "也是另外一种说法"}])
    assert main(["data", "check", out, "--against", other]) == 0
    assert "没有重叠" in capsys.readouterr().out
    code, found = envelope(capsys, "data", "check", out, "--against", source)
    assert (code, found["error"]["code"]) == (3, "split.leak")


def test_export_is_there(source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["data", "prepare", source, "--out", str(tmp_path / "out")])
    capsys.readouterr()
    words = ["data", "export", str(tmp_path / "out"), "--to", "alpaca", "--out", str(tmp_path / "a.json")]
    assert main(words) == 0
