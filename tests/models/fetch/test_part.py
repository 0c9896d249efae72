"""What may be built upon, and what the proof of a file is."""

from __future__ import annotations

import hashlib
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from hantune.models.fetch.part import Part, Proof, RemoteFile
from hantune.models.fetch.retry import Again, Wrong
from tests.models.hub_server import git_sha1, sha256

DATA = bytes(range(256)) * 10
FILE = RemoteFile(path="sub/a.bin", url="https://one.example/a.bin?key=1", size=len(DATA), sha256=sha256(DATA))


def half(file: RemoteFile, folder: Path, count: int = 1000) -> None:
    """Leave the first bytes of ``file`` as a killed process would."""
    with Part(file, folder) as part:
        part.accept(200, {"etag": '"e"', "content-length": str(len(DATA))}, "https://one.example")
        part.write(DATA[:count])


def test_what_came_is_built_upon_when_it_is_the_same_file(tmp_path: Path) -> None:
    half(FILE, tmp_path)
    assert Part.waiting(FILE, tmp_path) == 1000
    assert Part.waiting(replace(FILE, url="https://other.example/b"), tmp_path) == 1000
    assert Part.waiting(replace(FILE, sha256="0" * 64), tmp_path) == 0
    with Part(FILE, tmp_path) as part:
        assert part.headers_for("https://one.example") == {"Range": "bytes=1000-", "If-Range": '"e"'}
        assert part.headers_for("https://other.example") == {"Range": "bytes=1000-"}
        part.write(DATA[1000:])
        assert part.move_in() == Proof(len(DATA), sha256(DATA))
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["a.bin"]


def test_without_a_hash_only_the_same_address_and_the_same_etag_count(tmp_path: Path) -> None:
    bare = replace(FILE, sha256=None)
    half(bare, tmp_path)
    assert Part.waiting(replace(bare, url="https://one.example/a.bin?key=2"), tmp_path) == 1000
    assert Part.waiting(replace(bare, url="https://other.example/a.bin"), tmp_path) == 0
    with Part(bare, tmp_path) as part:
        assert part.headers_for("https://one.example") == {"Range": "bytes=1000-", "If-Range": '"e"'}
        assert part.headers_for("https://cdn.example") == {}


def test_more_than_the_whole_is_nothing(tmp_path: Path) -> None:
    half(FILE, tmp_path)
    (tmp_path / "sub" / "a.bin.part").write_bytes(DATA + b"x")
    assert Part.waiting(FILE, tmp_path) == 0
    (tmp_path / "sub" / "a.bin.part.json").write_bytes(b"[torn")
    assert Part.waiting(FILE, tmp_path) == 0


@pytest.mark.parametrize(
    ("status", "headers", "skipped"),
    [
        (206, {"content-range": f"bytes 1000-2559/{len(DATA)}"}, 0),
        (206, {"content-range": f"bytes 900-2559/{len(DATA)}"}, 100),
        (206, {"content-range": "bytes 1000-2559/*"}, 0),
        (206, {"content-range": f"bytes 1001-2559/{len(DATA)}"}, None),
        (206, {"content-range": "bytes 1000-2559/2561"}, None),
        (206, {}, None),
    ],
)
def test_a_range_must_be_the_one_asked_for(
    tmp_path: Path, status: int, headers: dict[str, str], skipped: int | None
) -> None:
    half(FILE, tmp_path)
    with Part(FILE, tmp_path) as part:
        if skipped is None:
            with pytest.raises(Wrong):
                part.accept(status, headers, "https://one.example")
        else:
            assert part.accept(status, headers, "https://one.example") == skipped


def test_the_whole_instead_of_the_rest(tmp_path: Path) -> None:
    half(FILE, tmp_path)
    with Part(FILE, tmp_path) as part:
        with pytest.raises(Again):
            part.accept(200, {}, "https://one.example")
        assert "If-Range" not in part.headers_for("https://one.example")
        assert part.accept(200, {}, "https://one.example") == 0
        assert part.done == 0


def test_too_many_or_wrong_bytes_never_get_the_name(tmp_path: Path) -> None:
    with Part(FILE, tmp_path) as part:
        part.write(DATA[:-1] + b"?")
        with pytest.raises(Wrong, match="sha256"):
            part.move_in()
        with pytest.raises(Wrong, match="长"):
            part.write(b"?")
    assert not (tmp_path / "sub" / "a.bin").exists()


def test_the_small_hash_is_the_one_of_git(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(DATA)
    proof = Proof.of(tmp_path / "a.json", git=True)
    assert (proof.git_sha1, proof.sha256) == (git_sha1(DATA), hashlib.sha256(DATA).hexdigest())
    assert not proof.fault(RemoteFile(path="a.json", url="", size=len(DATA), git_sha1=git_sha1(DATA)))
    assert "git" in proof.fault(RemoteFile(path="a.json", url="", git_sha1="0" * 40))
    assert "字节" in proof.fault(RemoteFile(path="a.json", url="", size=3))
    done = subprocess.run(["git", "hash-object", str(tmp_path / "a.json")], capture_output=True, text=True, check=False)
    assert done.returncode or done.stdout.strip() == proof.git_sha1
