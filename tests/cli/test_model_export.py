"""``hantune model export`` and ``--load``: what a user types and reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hantune.cli import main
from hantune.models.init import init_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli-export") / "m"
    init_model(folder)
    return folder


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(list(words))
    told = capsys.readouterr()
    return code, told.out, told.err


def test_each_target_ends_with_the_command_that_runs_it(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "model", "export", str(model), "--to", "vllm", "--out", str(tmp_path / "v"))
    assert code == 0
    assert f"vllm serve {tmp_path / 'v'}" in out
    assert "两处" in out
    pytest.importorskip("gguf")
    code, out, _ = run(capsys, "model", "export", str(model), "--to", "ollama", "--out", str(tmp_path / "o"))
    assert code == 0
    assert "ollama create" in out
    assert "o-q8_0.gguf" in out
    code, out, _ = run(
        capsys, "model", "export", str(model), "--to", "gguf", "--type", "q4_0", "--out", str(tmp_path / "g"), "--json"
    )
    result = json.loads(out)["result"]
    assert (code, result["files"], result["kind"]) == (0, ["g-q4_0.gguf"], "q4_0")
    out.encode("gbk")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("model", "export", "M", "--to", "exe", "--out", "o"), "export.unknown-target"),
        (("model", "export", "M", "--to", "gguf", "--type", "q9", "--out", "o"), "export.unknown-type"),
        (("batch", "M", "--input", "q.jsonl", "--output", "a.jsonl", "--load", "2bit"), "model.unknown-load"),
        (("model", "export", "nowhere", "--to", "vllm", "--out", "o"), "model.not-found"),
    ],
)
def test_faults_are_named(
    words: tuple[str, ...], code: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "q.jsonl").write_text('{"prompt": "你好"}\n', encoding="utf-8")
    found, _, err = run(capsys, *(str(model) if word == "M" else word for word in words))
    assert found != 0
    assert code in err
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("load", ["8bit", "4bit"])
def test_batch_answers_with_fewer_bits(
    load: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("bitsandbytes")
    (tmp_path / "q.jsonl").write_text('{"prompt": "你好"}\n', encoding="utf-8")
    words = ("--input", str(tmp_path / "q.jsonl"), "--output", str(tmp_path / "a.jsonl"), "--max-new-tokens", "4")
    code, _, _ = run(capsys, "batch", str(model), *words, "--load", load)
    assert code == 0
    assert len((tmp_path / "a.jsonl").read_text(encoding="utf-8").splitlines()) == 1
