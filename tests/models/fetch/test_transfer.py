"""The bytes of files: whole and proved whatever the line, the server or a kill does to them."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hantune.errors import MachineError, NetworkError, RefusedError
from hantune.models import room
from hantune.models.fetch import transfer
from hantune.models.fetch.part import RemoteFile
from hantune.models.fetch.transfer import PROGRESS, RefusedByServer, Token, origin_of
from tests.models.hub_server import Fault, HubServer, Repo, git_sha1, sha256

ROOT = Path(__file__).resolve().parents[3]
BIG = random.Random(1).randbytes(3_000_000)
SMALL = b'{"model_type": "llama"}'


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer({"own/tiny": Repo({"big.safetensors": BIG, "config.json": SMALL, "empty.txt": b""})}) as server:
        yield server


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "backoff", lambda failures: 0.001)


def listed(hub: HubServer, *names: str, hashes: bool = True, repo: str = "own/tiny") -> list[RemoteFile]:
    """What a listing says of the files of a repository, with or without hashes."""
    files = []
    for name, data in hub.repos[repo].files.items():
        proof = {"sha256": sha256(data)} if len(data) > 1000 else {"git_sha1": git_sha1(data)}
        url = f"{hub.url}/{repo}/resolve/main/{name}"
        if not names or name in names:
            files.append(RemoteFile(path=name, url=url, size=len(data), **(proof if hashes else {})))
    return files


def fetch(hub: HubServer, folder: Path, *names: str, **options: object) -> int:
    return transfer.transfer(listed(hub, *names), folder, **options)[1]  # type: ignore[arg-type]


def ranges(hub: HubServer, name: str = "big.safetensors") -> list[tuple[int, int]]:
    """(first byte, byte after the last) of every answer."""
    return [(each.start, each.end) for each in hub.asked(name)]


def test_files_come_whole_and_are_kept_the_next_time(hub: HubServer, tmp_path: Path) -> None:
    assert fetch(hub, tmp_path) == len(BIG) + len(SMALL)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == hub.repos["own/tiny"].files
    assert fetch(hub, tmp_path) == 0
    (tmp_path / "config.json").write_bytes(SMALL[:-1] + b" ")  # as long, and wrong
    assert fetch(hub, tmp_path) == len(SMALL)
    assert (tmp_path / "config.json").read_bytes() == SMALL


def test_a_cut_line_goes_on_where_it_broke(hub: HubServer, tmp_path: Path) -> None:
    hub.faults["big.safetensors"] = [Fault(cut=1_000_000), Fault(cut=500_000), Fault(status=503), Fault(cut=0)]
    assert fetch(hub, tmp_path) == len(BIG) + len(SMALL)
    assert (tmp_path / "big.safetensors").read_bytes() == BIG
    assert sum(end - start for start, end in ranges(hub)) <= len(BIG) + 3 * 300_000  # what the kernel held at each cut
    assert {each.headers.get("if-range") for each in hub.asked("big.safetensors")[1:]} == {f'"{sha256(BIG)}"'}


def test_a_line_that_never_holds_is_given_up_and_what_came_stays(hub: HubServer, tmp_path: Path) -> None:
    hub.faults["big.safetensors"] = [Fault(cut=200_000)] + [Fault(status=503)] * 20
    with pytest.raises(NetworkError, match="503") as caught:
        fetch(hub, tmp_path, "big.safetensors")
    assert (caught.value.code, caught.value.exit_code) == ("hub.broken-off", 4)
    asked = len(hub.asked("big.safetensors"))
    assert asked == transfer.TRIES + 1
    hub.faults.clear()
    fetch(hub, tmp_path, "big.safetensors")
    assert 0 < hub.asked("big.safetensors")[asked].start <= 200_000
    assert (tmp_path / "big.safetensors").read_bytes() == BIG


def test_a_server_that_moves_on_is_never_given_up(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "PROGRESS", 1)
    hub.faults["big.safetensors"] = [Fault(cut=150_000)] * 15
    fetch(hub, tmp_path, "big.safetensors")
    assert (tmp_path / "big.safetensors").read_bytes() == BIG


def test_a_nobody_is_given_up(tmp_path: Path) -> None:
    file = RemoteFile(path="a.json", url="http://127.0.0.1:9/a.json", size=3)
    with pytest.raises(NetworkError, match="连不上") as caught:
        transfer.transfer([file], tmp_path)
    assert caught.value.code == "hub.broken-off"


def test_a_pause_that_is_asked_for_is_made(hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hub.faults["config.json"] = [Fault(status=429, headers={"Retry-After": "1"})]
    fetch(hub, tmp_path)
    assert "服务器答 429, 1 秒后" in capsys.readouterr().err
    hub.faults["config.json"] = [Fault(status=429, headers={"Retry-After": "3600"})]
    with pytest.raises(NetworkError, match="3600") as caught:
        fetch(hub, tmp_path / "other")
    assert caught.value.code == "hub.busy"


def test_a_wrong_byte_is_seen_and_fetched_again_once(hub: HubServer, tmp_path: Path) -> None:
    hub.faults["big.safetensors"] = [Fault(flip=2_000_000)]
    fetch(hub, tmp_path)
    assert (tmp_path / "big.safetensors").read_bytes() == BIG
    hub.faults["config.json"] = [Fault(flip=3)] * 5
    with pytest.raises(NetworkError, match="config.json") as caught:
        fetch(hub, tmp_path / "other")
    assert caught.value.code == "hub.wrong-bytes"
    assert len(hub.faults["config.json"]) == 3
    assert not (tmp_path / "other" / "config.json").exists()


@pytest.mark.parametrize("fault", [Fault(content=b"<html>503</html>"), Fault(headers={"Content-Encoding": "gzip"})])
def test_what_cannot_be_the_file_is_not_taken(hub: HubServer, tmp_path: Path, fault: Fault) -> None:
    hub.faults["big.safetensors"] = [fault]
    fetch(hub, tmp_path)
    assert (tmp_path / "big.safetensors").read_bytes() == BIG


@pytest.mark.parametrize("hashes", [True, False])
def test_a_file_that_changes_between_two_requests_is_never_stitched(
    hub: HubServer, tmp_path: Path, hashes: bool
) -> None:
    other = bytes(len(BIG))
    hub.faults["big.safetensors"] = [Fault(cut=900_000, content=other)]
    transfer.transfer(listed(hub, hashes=hashes), tmp_path)
    assert (tmp_path / "big.safetensors").read_bytes() == BIG


def test_without_a_hash_and_without_an_etag_nothing_is_continued(hub: HubServer, tmp_path: Path) -> None:
    hub.etag = lambda data: None
    hub.faults["big.safetensors"] = [Fault(cut=900_000)]
    transfer.transfer(listed(hub, hashes=False), tmp_path)
    assert [start for start, _ in ranges(hub)] == [0, 0]
    assert (tmp_path / "big.safetensors").read_bytes() == BIG


def test_with_a_hash_no_etag_is_needed_nor_the_same_one(hub: HubServer, tmp_path: Path) -> None:
    """The CDN of Hugging Face sends none; others send one for each of their machines."""
    numbers = iter(range(1000))
    for etag in (lambda data: None, lambda data: f'"{next(numbers)}"', lambda data: f'W/"{sha256(data)}"'):
        hub.etag = etag
        hub.log.clear()
        hub.faults["big.safetensors"] = [Fault(cut=1_000_000)]
        folder = tmp_path / str(next(numbers))
        fetch(hub, folder)
        assert (folder / "big.safetensors").read_bytes() == BIG
        assert hub.asked("big.safetensors")[-1].start > 0


def test_a_server_without_ranges_sends_all_again(hub: HubServer, tmp_path: Path) -> None:
    hub.faults["big.safetensors"] = [Fault(cut=1_000_000), *[Fault(ignores_range=True)] * 2]
    assert fetch(hub, tmp_path) >= len(BIG)
    assert (tmp_path / "big.safetensors").read_bytes() == BIG


def test_a_half_from_one_server_and_a_half_from_another(hub: HubServer, tmp_path: Path) -> None:
    hub.faults["big.safetensors"] = [Fault(cut=1_500_000)] + [Fault(status=500)] * 9
    with pytest.raises(NetworkError):
        fetch(hub, tmp_path, "big.safetensors")
    with HubServer(hub.repos) as mirror:
        mirror.etag = lambda data: '"my own"'
        fetch(mirror, tmp_path, "big.safetensors")
        assert mirror.sent() <= len(BIG) - 1_000_000
    assert (tmp_path / "big.safetensors").read_bytes() == BIG


def test_the_token_is_seen_by_its_own_host_only(tmp_path: Path) -> None:
    repos = {"own/secret": Repo({"big.safetensors": BIG, "config.json": SMALL}, gated=True)}
    with HubServer(repos) as cdn, HubServer(repos, redirect_to=cdn) as hub, HubServer(repos) as mirror:
        hub.token = mirror.token = "hf_secret"
        token = Token(origin_of(hub.url), "hf_secret")
        transfer.transfer(listed(hub, repo="own/secret"), tmp_path, token=token)
        assert all(each.headers.get("authorization") == "Bearer hf_secret" for each in hub.log)
        assert cdn.sent() == len(BIG)
        with pytest.raises(RefusedByServer) as caught:
            transfer.transfer(listed(mirror, repo="own/secret"), tmp_path / "other", token=token)
        assert caught.value.status == 401
        assert not [each for each in (*cdn.log, *mirror.log) if "authorization" in each.headers]


def test_a_signed_address_that_ran_out_is_asked_for_again(tmp_path: Path) -> None:
    repos = {"own/tiny": Repo({"big.safetensors": BIG})}
    with HubServer(repos) as cdn, HubServer(repos, redirect_to=cdn) as hub:
        cdn.faults["big.safetensors"] = [Fault(cut=1_000_000), Fault(status=403)]
        fetch(hub, tmp_path)
        assert (tmp_path / "big.safetensors").read_bytes() == BIG
        assert len(hub.log) == 3


def test_a_hash_that_only_the_redirect_tells_is_held(tmp_path: Path) -> None:
    repos = {"own/tiny": Repo({"big.safetensors": BIG})}
    with HubServer(repos) as cdn, HubServer(repos, redirect_to=cdn) as hub:
        cdn.faults["big.safetensors"] = [Fault(flip=9)] * 2
        with pytest.raises(NetworkError, match="sha256"):
            transfer.transfer(listed(hub, hashes=False), tmp_path)


def test_a_missing_file_is_the_callers_to_explain(hub: HubServer, tmp_path: Path) -> None:
    with pytest.raises(RefusedByServer) as caught:
        transfer.transfer([RemoteFile(path="no.json", url=f"{hub.url}/own/tiny/resolve/main/no.json")], tmp_path)
    assert (caught.value.status, caught.value.file.path) == (404, "no.json")


def test_a_small_disk_is_told_before_the_first_byte(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 2_000_000}))
    with pytest.raises(MachineError) as caught:
        fetch(hub, tmp_path)
    assert caught.value.code == "machine.no-room"
    assert not hub.log


def test_a_disk_that_fills_keeps_what_came(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(transfer.Part, "write", full)
    with pytest.raises(MachineError, match="已经下载的都留着") as caught:
        fetch(hub, tmp_path)
    assert caught.value.code == "machine.disk-full"


def test_a_link_may_not_lead_out_of_the_folder(hub: HubServer, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "sub").symlink_to(tmp_path / "out")
    (tmp_path / "in" / "config.json").symlink_to(tmp_path / "out" / "victim")
    (tmp_path / "in" / "big.safetensors.part").symlink_to(tmp_path / "out" / "other")
    with pytest.raises(RefusedError) as caught:
        transfer.transfer([RemoteFile(path="sub/a.json", url=hub.url)], tmp_path / "in")
    assert caught.value.code == "hub.unsafe-name"
    fetch(hub, tmp_path / "in")
    assert not list((tmp_path / "out").iterdir())


def test_files_of_a_folder_are_copied(tmp_path: Path) -> None:
    (tmp_path / "from").mkdir()
    (tmp_path / "from" / "a.bin").write_bytes(BIG)
    file = RemoteFile(path="sub/a.bin", url=str(tmp_path / "from" / "a.bin"), size=len(BIG))
    proofs, fetched = transfer.transfer([file], tmp_path / "to")
    assert (tmp_path / "to" / "sub" / "a.bin").read_bytes() == BIG
    assert (proofs["sub/a.bin"].sha256, fetched) == (sha256(BIG), len(BIG))


CHILD = """
import json, socket, sys
import httpx2
from pathlib import Path
from hantune.models.fetch import transfer
from hantune.models.fetch.part import RemoteFile

def client():
    # What the system still holds when the process dies was never seen by it: keep that below what is measured.
    small = httpx2.HTTPTransport(socket_options=[(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)])
    return httpx2.Client(transport=small)

transfer.new_client = client
files = [RemoteFile(**each) for each in json.loads(sys.stdin.read())]
transfer.transfer(files, Path(sys.argv[1]))
"""


def start(hub: HubServer, files: list[RemoteFile], folder: Path) -> subprocess.Popen[bytes]:
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder)], cwd=ROOT, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert child.stdin
    child.stdin.write(json.dumps([vars(file) for file in files]).encode())
    child.stdin.close()
    return child


@pytest.mark.parametrize(
    ("hashes", "kills"),
    [
        pytest.param(True, 4, id="hashes"),
        pytest.param(False, 3, id="etags"),
        pytest.param(True, 20, id="many", marks=pytest.mark.slow),
    ],
)
def test_killed_at_random_places_nothing_comes_twice(tmp_path: Path, hashes: bool, kills: int) -> None:
    draw = random.Random(kills)
    contents = {f"model-0000{i}-of-00003.safetensors": draw.randbytes(6_000_000) for i in (1, 2, 3)}
    points = sorted(draw.randrange(17_000_000) for _ in range(kills))
    with HubServer({"own/tiny": Repo(contents)}) as hub:
        hub.bytes_per_second = 40e6
        files = listed(hub, hashes=hashes)
        for point in points:
            child = start(hub, files, tmp_path)
            while hub.sent() < point:
                assert child.poll() is None
                time.sleep(0.001)
            os.kill(child.pid, signal.SIGKILL)
            child.wait()
        assert start(hub, files, tmp_path).wait() == 0
        answers = [ranges(hub, name) for name in contents]
    twice = [one[1] - two[0] for each in answers for one, two in itertools.pairwise(each)]
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == contents
    assert max(twice) <= PROGRESS
    assert sum(max(0, count) for count in twice) <= kills * PROGRESS


def test_a_fault_nobody_thought_of_is_heard(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(transfer.Part, "accept", fail)
    with pytest.raises(ZeroDivisionError):
        fetch(hub, tmp_path)
