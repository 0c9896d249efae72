"""``hantune serve`` as it is typed: what it refuses before it loads, what it says, how it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hantune.cli import main

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("words", "code", "exit_code"),
    [
        (["--adapter", "no-folder"], "serve.bad-adapter", 2),
        (["--adapter", "a=x", "--adapter", "a=y"], "serve.bad-adapter", 2),
        (["--cors", "a.example/path"], "serve.bad-origin", 2),
        (["--host", "0.0.0.0", "--api-key", "short"], "serve.bad-key", 2),
        (["--host", "no such host"], "serve.bad-address", 2),
        (["--host", "192.0.2.1"], "serve.cannot-listen", 6),
        (["--port", "0"], "model.not-found", 3),
        (["--engine", "vllm", "--port", "0"], "serve.no-vllm", 6),
        (["--port", "70000"], "cli.usage", 2),
    ],
)
def test_what_is_refused_before_a_model_is_loaded(
    words: list[str], code: str, exit_code: int, capsys: pytest.CaptureFixture[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["serve", str(tmp_path / "nowhere"), *words, "--json"]) == exit_code
    assert json.loads(capsys.readouterr().out)["error"]["code"] == code


def test_a_port_in_use_is_told_before_the_model_is_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["serve", "nowhere", "--port", str(taken.getsockname()[1]), "--json"]) == 6
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "serve.port-in-use"


def test_a_model_too_large_is_told_the_next_smaller_way(
    tiny_llama_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("hantune.infer.engine.open_engine", fail)
    for load, hint in (("full", "8bit"), ("8bit", "4bit"), ("4bit", "小一点的模型")):
        assert main(["serve", str(tiny_llama_folder), "--port", "0", "--load", load, "--json"]) == 6
        error = json.loads(capsys.readouterr().out)["error"]
        assert error["code"] == "machine.out-of-memory"
        assert hint in error["hint"]


def test_a_scheduler_that_dies_ends_it(
    tiny_llama_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("hantune.infer.scheduler.Scheduler._wait", lambda self: 1 / 0)
    monkeypatch.setattr("threading.excepthook", lambda _: None)
    assert main(["serve", str(tiny_llama_folder), "--port", "0", "--json"]) == 6
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "serve.died"


@pytest.mark.e2e
def test_from_the_first_line_to_the_last(
    tiny_llama_folder: Path, tmp_path: Path, adapter_of: Callable[..., Path]
) -> None:
    """An adapter and its base, on all addresses, with a key it makes itself; stopped by SIGTERM."""
    adapter = adapter_of(tmp_path / "pupil", tiny_llama_folder, seed=1, template="llama2")
    words = [sys.executable, "-m", "hantune", "serve", str(adapter), "--adapter", f"b={adapter}", "--host", "0.0.0.0"]
    env = {name: value for name, value in os.environ.items() if name != "HANTUNE_API_KEY"}
    with subprocess.Popen(
        [*words, "--port", "0"], cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"
    ) as process:
        assert process.stderr is not None
        told = [process.stderr.readline() for _ in range(5)]
        assert told[0] == "模型  pupil, tiny-llama, b\n"
        assert re.match(r"权重  \d+ MB 内存 \(float32\); 上下文 512 个词元\n", told[1])
        address = re.search(r"http://127\.0\.0\.1:\d+", told[2])[0]  # type: ignore[index]
        key = re.match(r"密钥  (sk-\S{40,})", told[3])[1]  # type: ignore[index]
        assert f"curl {address}/v1/chat/completions" in told[4]
        body = {"model": "pupil", "messages": [{"role": "user", "content": "你好"}], "max_tokens": 3}
        request = urllib.request.Request(
            f"{address}/v1/chat/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json", "Authorization": f"Bearer {key}"},
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            answer = json.loads(response.read())
        assert answer["usage"]["completion_tokens"] <= 3
        process.send_signal(signal.SIGTERM)
        out, log = process.communicate(timeout=60)
    assert process.returncode == 143
    assert out == "已停止: 答完 1 个, 取消 0 个\n"
    (line,) = log.splitlines()
    record = json.loads(line)
    assert (record["status"], record["model"]) == (200, "pupil")
    assert "你好" not in line
    assert key not in line
