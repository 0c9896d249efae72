"""``hantune model``: what a user types and reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hantune.cli import main


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = main([str(word) for word in words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_init_then_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "model", "init", tmp_path / "m", "--seed", "3")
    assert code == 0
    assert "tiny" in out
    assert "随机" in out
    code, out, _ = run(capsys, "model", "check", tmp_path / "m")
    assert code == 0
    assert out.count("√") == 5
    code, out, _ = run(capsys, "model", "check", tmp_path / "m", "--json")
    result = json.loads(out)
    assert (result["ok"], result["command"]) == (True, "model check")
    assert result["result"]["vocab_rows"] == result["result"]["tokenizer_ids"]
    out.encode("gbk")


def test_merge_needs_an_adapter(tmp_path: Path, tiny_llama_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "model", "merge", tiny_llama_folder, "--out", tmp_path / "out")
    assert code == 3
    assert "merge.no-adapter" in err


@pytest.mark.parametrize(
    ("words", "code", "name"),
    [
        (("model", "check", "no-such-folder"), 3, "model.not-found"),
        (("model", "check", "nobody/none"), 4, "hub.unreachable"),
        (("model", "init", "m", "--preset", "huge"), 2, "model.no-such-preset"),
        (("model", "merge", "a"), 2, "cli.usage"),
    ],
)
def test_faults_have_their_exit_codes(
    words: tuple[str, ...], code: int, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    found, _, err = run(capsys, *words)
    assert found == code
    assert name in err
    assert not list(tmp_path.iterdir())


def test_merge_says_how_equal_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from hantune.cli.model import merge_text

    proof = {"equal_tokens": 70, "flips": 2, "positions": 72, "difference": 0.021, "tolerance": 0.1}
    text = merge_text(
        {"folder": "out", "bytes": 13.5e9, "seconds": 61.2, "write_seconds": 40.1, "tensors": 291,
         "merged_tensors": 224, "dtype": "bfloat16", "base_quantization": "nf4", "proof": proof}
    )  # fmt: skip
    assert "13.5 GB" in text
    assert "72 处选词有 70 处相同" in text
    assert "写 40 秒, 核对 21 秒" in text
    assert "NF4" in text
    text.encode("gbk")
