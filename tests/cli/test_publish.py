"""``hantune publish``: what a user types, reads and is asked."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from hantune.cli import main
from hantune.data.prepare import prepare
from hantune.models.export import publish as module
from hantune.models.record import read_record
from hantune.paths import write_json


class FakeHub:
    """An uploader that only notes what it gets."""

    def __init__(self) -> None:
        self.sent: list[Any] = []

    def open(self, repo: str, *, public: bool) -> str:
        return f"https://huggingface.co/{repo}" + ("?public" if public else "")

    def send(self, repo: str, folder: Path, names: list[str], card: str | None) -> None:
        self.sent = [repo, names, card]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    fake = FakeHub()
    monkeypatch.setattr(module, "_hugging_face", lambda: fake)
    return fake


@pytest.fixture
def run(tiny_llama_folder: Path, tmp_path: Path) -> Path:
    """A RUN whose result is a whole model, trained on two chats one of which tells a phone number."""
    run = tmp_path / "runs" / "demo"
    run.mkdir(parents=True)
    lines = [["你好", "你好"], ["电话多少", "13812345678"]]
    rows = [{"messages": [{"role": "user", "content": a}, {"role": "assistant", "content": b}]} for a, b in lines]
    (tmp_path / "raw.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    manifest = prepare([str(tmp_path / "raw.jsonl")], run / "prepared", val_share=0.0)
    shutil.copytree(tiny_llama_folder, run / "model")
    record = read_record(run / "model") or {"format": 1, "template": {"name": "llama2", "text": None}}
    write_json(run / "model" / "hantune.json", record | {"data": {"fingerprint": manifest["fingerprint"]}})
    (run / "config.yaml").write_text("adapter: {kind: none}\n", encoding="utf-8")
    (run / "events.jsonl").write_text("", encoding="utf-8")
    return run


def publish(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = main(["publish", *map(str, words)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_private_data_stop_it(run: Path, hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = publish(capsys, run, "--to", "hf", "--repo", "me/chat", "--yes")
    assert code == 3
    assert "publish.private-data" in err
    assert "手机 1 处" in err
    assert not hub.sent


def test_with_leave_it_goes_with_the_card_of_the_run(
    run: Path, hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (run, "--to", "hf", "--repo", "me/chat", "--yes", "--allow-private")
    code, out, _ = publish(capsys, *words)
    assert code == 0
    assert "只有你看得见" in out
    repo, names, card = hub.sent
    assert repo == "me/chat"
    assert "model.safetensors" in names
    assert "README.md" not in names
    assert "## 数据" in card
    code, out, _ = publish(capsys, *words, "--json", "--public")
    result = json.loads(out)["result"]
    assert (result["public"], result["privacy"]) == (True, "found")


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("n\n", 3), ("", 3)])
def test_it_asks_and_shows_the_files_first(
    run: Path, hub: FakeHub, answer: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = io.StringIO(answer)
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr("sys.stdin", terminal)
    found, _, err = publish(capsys, run, "--to", "hf", "--repo", "me/chat", "--allow-private")
    assert found == code
    assert err.index("model.safetensors") < err.index("上传吗?")
    assert bool(hub.sent) == (code == 0)
    assert ("publish.not-confirmed" in err) == (code == 3)


def test_without_a_terminal_nobody_agrees(
    run: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    code, _, err = publish(capsys, run, "--to", "hf", "--repo", "me/chat", "--allow-private")
    assert code == 3
    assert "--yes" in err
    assert not hub.sent


def test_unknown_data_are_told(tiny_llama_folder: Path, hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = publish(capsys, tiny_llama_folder, "--to", "hf", "--repo", "me/chat", "--yes")
    assert code == 0
    assert "找不到训练数据" in err
    assert hub.sent[2] is None


@pytest.mark.parametrize(
    ("words", "code", "name"),
    [
        (("no-such", "--to", "hf", "--repo", "me/x"), 3, "model.not-found"),
        ((".", "--to", "hf", "--repo", "me/x"), 3, "publish.nothing"),
        ((".", "--to", "ftp", "--repo", "me/x"), 2, "cli.usage"),
        ((".", "--to", "hf"), 2, "cli.usage"),
    ],
)
def test_faults_have_their_exit_codes(
    words: tuple[str, ...], code: int, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    found, _, err = publish(capsys, *words)
    assert (found, name in err) == (code, True), err
