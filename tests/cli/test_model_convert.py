"""``hantune model convert``: what a user types and reads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hantune.cli import main


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = main([str(word) for word in words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def pickled(tiny_llama_folder: Path, tmp_path: Path) -> Path:
    """A model folder with ``pytorch_model.bin``."""
    folder = tmp_path / "old"
    shutil.copytree(tiny_llama_folder, folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


def test_it_says_what_was_made_and_what_comes_next(
    pickled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "model", "convert", pickled, "--out", tmp_path / "new")
    assert code == 0
    assert f"下一步  hantune model check {tmp_path / 'new'}" in out
    assert "checklist" in out
    out.encode("gbk")
    code, out, _ = run(capsys, "model", "check", tmp_path / "new", "--deep", "--json")
    assert (code, json.loads(out)["result"]["findings"]) == (0, [])


def test_a_check_of_what_must_be_converted_says_so(pickled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "model", "check", pickled)
    assert code == 3
    assert f"hantune model convert {pickled} --out" in err


@pytest.mark.parametrize(
    ("words", "code", "name"),
    [
        (("gone", "--out", "x"), 3, "model.not-found"),
        (("old",), 2, "cli.usage"),
        (("old", "--out", "x", "--chat"), 2, "convert.only-meta"),
        (("old", "--out", "x", "--vocab-size", "0"), 2, "cli.usage"),
        (("old", "--out", "old"), 3, "run.exists"),
    ],
)
def test_faults_have_their_exit_codes(
    words: tuple[str, ...], code: int, name: str, pickled: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(pickled.parent)
    found, _, err = run(capsys, "model", "convert", *words)
    assert (found, name in err) == (code, True)
    assert [path.name for path in pickled.parent.iterdir()] == ["old"]


def test_all_that_was_proven_is_said() -> None:
    from hantune.cli.model_convert import convert_text

    text = convert_text({
        "folder": "out", "seconds": 31.4, "parameters": 6.7e9, "bytes": 13.5e9, "dtype": "bfloat16", "layers": 32,
        "vocab_rows": 32000, "kept_bytes": 4 * 10**9, "md5_checked": ["consolidated.00.pth"], "template": "llama2",
        "findings": ["x; 办法: y"],
    })  # fmt: skip
    for words in ("6.7 B 参数, 13.5 GB", "4.0 GB 是上次", "1 个文件的 md5", "模板 llama2", "x; 办法: y"):
        assert words in text
    assert text.endswith("下一步  hantune chat out")
    text.encode("gbk")
