"""A bad file stops a folder by its name, and what is typed to go on without it works."""

from __future__ import annotations

import io
import json
import shlex
import subprocess
import zipfile
from pathlib import Path

import pytest

from hantune.cli import main

PAIRS = "".join(json.dumps({"question": f"问题{n}", "answer": "回答"}) + "\n" for n in range(30))


def zipped(data: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.jsonl", data)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("b.csv", b"\xd0\xcf\x11\xe0" + b"\0" * 600),
        ("deep/b c.json", b'{"x": 1, "y": 2}\n' * 9),
        ("b.zip", zipped('{"x": 1, "y": 2}\n' * 9)),
        ("b.jsonl", b""),
    ],
)
@pytest.mark.parametrize("is_absolute", [False, True])
def test_one_bad_file_in_a_folder(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    data: bytes,
    is_absolute: bool,
) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path("in") / name
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    Path("in/a.jsonl").write_text(PAIRS, encoding="utf-8")
    (Path("other") / "in2").mkdir(parents=True)
    Path("other/in2/a.jsonl").write_text(PAIRS.replace("问题", "别的"), encoding="utf-8")
    given = str(Path("in").absolute() if is_absolute else "in")
    assert main(["data", "prepare", "other/in2", given, "--out", "out"]) == 5
    told = capsys.readouterr().err
    assert name in told
    assert not Path("out").exists()
    line = next(line for line in told.split("\n") if line.startswith("办法"))
    subprocess.run(shlex.split(line[line.index("mv ") :]), check=True)
    assert main(["data", "prepare", given, "--out", "out"]) == 0


def test_a_file_that_was_given_itself_is_not_to_be_moved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "b.jsonl"
    path.write_bytes(b"")
    assert main(["data", "prepare", str(path), "--out", str(tmp_path / "out")]) == 5
    assert "mv " not in capsys.readouterr().err
