"""``hantune model get``: what a user types and reads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.models.hub_server import HubServer, Repo

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def hub(tiny_llama_folder: Path) -> Iterator[HubServer]:
    """A hub with a tiny Llama, and the same as a pickle."""
    files = {path.name: path.read_bytes() for path in tiny_llama_folder.iterdir() if path.is_file()}
    pickled = {name: data for name, data in files.items() if not name.endswith(".safetensors")}
    with HubServer({"own/tiny": Repo(files), "own/old": Repo({**pickled, "pytorch_model.bin": b"x" * 2000})}) as server:
        yield server


def run(hub: HubServer, folder: Path, *words: str, offline: bool = False) -> subprocess.CompletedProcess[str]:
    """One command in a process of its own: the library of the hub reads the environment once, when it is imported."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    env |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "hf"), "HANTUNE_HOME": str(folder / "home")}
    env |= {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1" if offline else "0"}
    command = [sys.executable, "-m", "hantune", "model", "get", *words]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, encoding="utf-8", check=False)


@pytest.mark.e2e
def test_get_a_model_and_check_it(hub: HubServer, tmp_path: Path) -> None:
    done = run(hub, tmp_path, "own/tiny", "--out", "m", "--json")
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["ok"], answer["command"]) == (0, True, "model get")
    assert answer["result"]["revision"] == "a" * 40
    assert answer["result"]["check"]["model_type"] == "llama"
    done = run(hub, tmp_path, "own/tiny", "--out", "m")
    assert "没有要下载的" in done.stdout
    assert "下一步  hantune chat m" in done.stdout
    done.stdout.encode("gbk")


@pytest.mark.e2e
def test_a_pickle_is_fetched_and_sent_to_convert(hub: HubServer, tmp_path: Path) -> None:
    done = run(hub, tmp_path, "own/old", "--out", "m")
    assert done.returncode == 0, done.stderr
    assert "hantune model convert m --out" in done.stdout


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("words", "offline", "code", "name"),
    [
        (("own/none",), False, 3, "model.not-found"),
        (("own/tiny",), True, 4, "hub.unreachable"),
        (("own/tiny", "--from", "nix"), False, 2, "hub.bad-source"),
        (("own tiny",), False, 3, "model.not-found"),
    ],
)
def test_faults_have_their_exit_codes(
    hub: HubServer, tmp_path: Path, words: tuple[str, ...], offline: bool, code: int, name: str
) -> None:
    done = run(hub, tmp_path, *words, offline=offline)
    assert done.returncode == code, done.stderr
    assert name in done.stderr
