"""Files and folders are whole or not there; a run folder has one owner."""

from __future__ import annotations

import errno
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hantune import paths
from hantune.errors import MachineError, RunError
from hantune.paths import (
    RunFolder,
    free_run_folder,
    latest_run,
    new_folder,
    quoted,
    sha256_file,
    sweep,
    write_file,
    write_json,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / "一个 名字.txt"
    write_file(target, "旧")
    write_file(target, "新")
    assert target.read_text(encoding="utf-8") == "新"
    assert names(tmp_path) == [target.name]


@pytest.mark.parametrize(("number", "code"), [(errno.ENOSPC, "machine.disk-full"), (errno.EROFS, "machine.no-write")])
def test_a_failed_write_keeps_the_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: str
) -> None:
    target = tmp_path / "a"
    write_file(target, "旧")

    def fail(handle: int) -> None:
        raise OSError(number, "planted")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(MachineError) as caught:
        write_file(target, "新")
    assert caught.value.code == code
    assert target.read_text(encoding="utf-8") == "旧"
    assert names(tmp_path) == ["a"]


def test_equal_values_give_equal_bytes(tmp_path: Path) -> None:
    write_json(tmp_path / "a", {"b": 1, "a": [1, "汉"]})
    write_json(tmp_path / "b", {"a": [1, "汉"], "b": 1})
    assert sha256_file(tmp_path / "a") == sha256_file(tmp_path / "b")


def test_a_new_folder_appears_when_all_is_written(tmp_path: Path) -> None:
    with new_folder(tmp_path / "out") as temporary:
        (temporary / "x").write_text("1", encoding="utf-8")
        assert not (tmp_path / "out").exists()
    assert names(tmp_path / "out") == ["x"]


def _write_half(folder: Path) -> None:
    with new_folder(folder) as temporary:
        (temporary / "x").write_text("1", encoding="utf-8")
        raise ZeroDivisionError


def test_a_failed_folder_vanishes(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        _write_half(tmp_path / "out")
    assert names(tmp_path) == []


def test_a_folder_with_something_in_it_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("1", encoding="utf-8")
    with pytest.raises(RunError) as caught, new_folder(tmp_path):
        pass
    assert caught.value.code == "run.exists"
    assert names(tmp_path) == ["mine"]


def test_one_owner_and_a_dead_owner_is_forgotten(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from hantune.paths import RunFolder\n"
        f"with RunFolder(Path({str(tmp_path)!r})).lock():\n    print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(RunError) as caught, RunFolder(tmp_path).lock():
        pass
    assert caught.value.code == "run.in-use"
    assert str(holder.pid) in caught.value.message
    holder.kill()
    holder.wait()
    with RunFolder(tmp_path).lock():
        pass


@pytest.mark.skipif(os.name != "posix", reason="needs the numbers of dead processes")
def test_what_killed_writers_left_is_swept_and_nothing_else(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    held = tmp_path / f".tmp-out-{dead.pid}"
    left = [tmp_path / f".tmp-{name}-{dead.pid}" for name in ("out", "del-out")]
    kept = [tmp_path / f".tmp-out-{holder.pid}", tmp_path / f".tmp-other-{dead.pid}", tmp_path / ".tmp-out-x"]
    for folder in (*left, *kept):
        (folder / "inner").mkdir(parents=True)
    torn = tmp_path / f".tmp-out.json-{dead.pid}"
    torn.write_text("half", encoding="utf-8")
    sweep(tmp_path / "out.json")
    assert not torn.exists()
    handle = os.open(held, os.O_RDONLY)
    fcntl = pytest.importorskip("fcntl")
    fcntl.flock(handle, fcntl.LOCK_EX)  # as a live process of another machine would
    sweep(tmp_path / "out")
    assert held.exists()
    assert not left[1].exists()
    os.close(handle)
    with new_folder(tmp_path / "out") as temporary:
        (temporary / "x").write_text("1", encoding="utf-8")
        sweep(tmp_path / "out")
        assert temporary.exists()
    assert [folder.exists() for folder in (*left, *kept)] == [False, False, True, True, True]
    assert names(tmp_path / "out") == ["x"]
    holder.communicate(b"\n")


def start(run: RunFolder) -> None:
    run.root.mkdir(parents=True)
    run.config.write_text("", encoding="utf-8")
    run.events.write_text("", encoding="utf-8")


def test_an_old_run_is_never_written_over(tmp_path: Path) -> None:
    wanted = tmp_path / "run"
    assert free_run_folder(wanted).root == wanted
    start(RunFolder(wanted))
    assert free_run_folder(wanted).root == tmp_path / "run-2"
    start(RunFolder(tmp_path / "run-2"))
    assert free_run_folder(wanted).root == tmp_path / "run-3"


def test_the_latest_run(tmp_path: Path) -> None:
    assert latest_run(tmp_path / "none") is None
    for name, when in (("a", 100), ("b", 200)):
        start(RunFolder(tmp_path / name))
        os.utime(tmp_path / name / "events.jsonl", (when, when))
    found = latest_run(tmp_path)
    assert found is not None
    assert found.root.name == "b"


def test_sha256_on_old_pythons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hashlib

    (tmp_path / "a").write_bytes(b"abc")
    expected = hashlib.sha256(b"abc").hexdigest()
    assert sha256_file(tmp_path / "a") == expected
    monkeypatch.delattr(paths.hashlib, "file_digest", raising=False)
    assert sha256_file(tmp_path / "a") == expected


def test_other_os_errors_pass_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> None:
        raise OSError(errno.EIO, "planted")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="planted"):
        write_file(tmp_path / "a", "x")


@pytest.mark.parametrize(
    ("path", "typed"),
    [
        ("runs/demo", "runs/demo"),
        ("数据/对话.json", "数据/对话.json"),
        ("a b", "'a b'"),
        ("it's; rm", "'it'\\''s; rm'"),
    ],
)
def test_paths_in_hints_can_be_typed(path: str, typed: str) -> None:
    assert quoted(path) == typed
    assert shlex.split(typed) == [path]


@pytest.mark.parametrize("name", ["file/inside", "file", "x" * 300])
def test_a_path_that_cannot_be_a_folder_says_why(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(MachineError) as caught, RunFolder(tmp_path / name).lock():
        pass
    assert caught.value.code == "machine.no-write"
    assert caught.value.message in {"路径中间有一段是文件, 不是文件夹", "这个名字已经是一个文件", "名字太长"}
    assert "ls -ld" in (caught.value.hint or "")
    assert names(tmp_path) == ["file"]
