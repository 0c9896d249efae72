"""``hantune data look``, ``stats`` and ``check`` as a user meets them."""

from __future__ import annotations

from pathlib import Path

import pytest

from hantune.cli import main
from hantune.cli.data_look import SHOWN_CHARACTERS, SHOWN_MESSAGES
from tests.cli.answers import envelope, write, write_questions


@pytest.fixture
def source(tmp_path: Path) -> str:
    return write_questions(tmp_path / "a.jsonl")


def test_look_at_a_folder_shows_every_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in "abc":
        write(tmp_path / f"{name}.jsonl", [{"question": f"{name}{n}", "answer": "好的"} for n in range(5)])
    write(tmp_path / "d.jsonl", [{"question": "d", "answer": ""}])
    code, found = envelope(capsys, "data", "look", str(tmp_path), "-n", "8")
    shown = [c["messages"][0]["content"] for c in found["result"]["conversations"]]
    assert (code, shown) == (0, ["a0", "a1", "b0", "b1", "c0", "c1"])
    assert len(found["result"]["notes"]) == 5
    code, found = envelope(capsys, "data", "look", str(tmp_path), "-n", "2")
    assert [c["messages"][0]["content"] for c in found["result"]["conversations"]] == ["a0", "b0"]
    assert "一共 4 个文件, 看了前 2 个" in found["result"]["notes"][-1]


def test_look_is_no_flood(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    long = "长" * (SHOWN_CHARACTERS + 5)
    said = [{"role": role, "content": long} for role in ("user", "assistant")]
    said += [{"role": role, "content": "好"} for role in ("user", "assistant")] * SHOWN_MESSAGES
    path = write(tmp_path / "a.jsonl", [{"messages": said}])
    assert main(["data", "look", path]) == 0
    text = capsys.readouterr().out
    assert f"问  {long[:SHOWN_CHARACTERS]} ... (还有 5 个字)" in text
    assert f"还有 {len(said) - SHOWN_MESSAGES} 句" in text
    _, found = envelope(capsys, "data", "look", path)
    assert found["result"]["conversations"][0]["messages"][0]["content"] == long


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
    (tokens,) = found["result"]["tokens"]
    assert tokens["supervised_share"] > 0
    assert tokens["model"] == sp_tokenizer_folder.name


def test_stats_of_several_tokenizers_as_a_page(
    source: str, tmp_path: Path, sp_tokenizer_folder: Path, byte_tokenizer_folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    folders = [str(sp_tokenizer_folder), str(byte_tokenizer_folder)]
    words = ["data", "stats", source, "--model", folders[0], "--model", folders[1], "--template", "belle"]
    assert main([*words, "--out", str(tmp_path / "s.html")]) == 0
    text = capsys.readouterr().out
    for folder in folders:
        assert f"分词器  {Path(folder).name}" in text
    assert f"网页    {tmp_path / 's.html'}" in text
    assert "汉调数据统计" in (tmp_path / "s.html").read_text(encoding="utf-8")
    code, found = envelope(capsys, *words[:5], "--model", folders[0] + "/../" + Path(folders[0]).name)
    assert [tokens["model"] for tokens in found["result"]["tokens"]] == [
        folders[0],
        folders[0] + "/../" + Path(folders[0]).name,
    ]


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
    assert (code, found["error"]["code"]) == (3, "split.overlap")


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
