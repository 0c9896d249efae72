"""What a hub, a mirror, a web server or a folder says it has; who may see the token; what a refusal means."""

from __future__ import annotations

import functools
import http.server
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from hantune.errors import ConfigError, HantuneError, MachineError, ModelError, NetworkError, RefusedError
from hantune.models.fetch import listing
from hantune.models.fetch.listing import list_model, problem_of
from hantune.models.fetch.needed import SOURCE
from tests.models.hub_server import Fault, HubServer, Repo, git_sha1, sha256

BIG = b"weights" * 1000
FILES = {"model.safetensors": BIG, "config.json": b"{}"}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub that ``HF_ENDPOINT`` names, with nobody logged in."""
    repos = {"own/tiny": Repo(FILES), "own/secret": Repo(FILES, gated=True), "own/private": Repo(FILES, private=True)}
    with HubServer(repos) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setattr(listing, "backoff", lambda failures: 0.001)
        yield server


def refusal(name: str, source: str = "hf", **options: object) -> HantuneError:
    with pytest.raises(HantuneError) as caught:
        list_model(name, source, **options)  # type: ignore[arg-type]
    return caught.value


def test_a_listing_names_commit_size_and_hash_in_one_question(hub: HubServer) -> None:
    found = list_model("own/tiny", "hf")
    assert (found.id, found.revision, found.is_mirror, found.token) == ("own/tiny", "a" * 40, True, None)
    assert len([each for each in hub.log if each.path.startswith("/api/models")]) == 1
    proofs = {file.path: (file.size, file.sha256, file.git_sha1) for file in found.files}
    assert proofs == {
        "model.safetensors": (len(BIG), sha256(BIG), None),
        "config.json": (2, None, git_sha1(b"{}")),
    }
    assert all("a" * 40 in file.url for file in found.files)


def test_a_mirror_sees_the_token_only_when_told(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    for source in ("hf", hub.url, hub.url + "/"):
        assert list_model("own/tiny", source).token is None
    assert not [each for each in hub.log if "authorization" in each.headers]
    token = list_model("own/tiny", "hf", send_token=True).token
    assert token == listing.Token(hub.url, "hf_secret")
    assert hub.log[-1].headers["authorization"] == "Bearer hf_secret"


def test_the_official_hub_sees_its_token(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "OFFICIAL", hub.url)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    found = list_model("own/tiny", "hf")
    assert (found.token, found.is_mirror) == (listing.Token(hub.url, "hf_secret"), False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
    assert list_model("own/tiny", "hf").token is None


def test_a_busy_hub_is_asked_again(hub: HubServer) -> None:
    hub.api_faults = [Fault(status=503), Fault(status=429, headers={"Retry-After": "0"})]
    assert list_model("own/tiny", "hf").files
    hub.api_faults = [Fault(status=429, headers={"Retry-After": "0"})] * 9
    assert refusal("own/tiny").code == "hub.busy"


def test_a_name_that_is_not_there_has_neighbours(hub: HubServer) -> None:
    error = refusal("own/tyni")
    assert isinstance(error, ModelError)
    assert (error.code, error.hint) == ("model.not-found", "hantune model get own/tiny")
    assert "own/tiny" not in refusal("zzz/qqqq").message
    error = refusal("own/tiny", revision="v9")
    assert error.code == "model.not-found"
    assert "v9" in error.message


def test_a_gated_model_is_explained(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    found = list_model("own/secret", "hf")
    assert found.is_gated
    through_mirror = problem_of(found, 401, "config.json")
    assert (through_mirror.code, through_mirror.exit_code) == ("hub.gated", 3)
    assert "--send-token" in str(through_mirror.hint)
    monkeypatch.setattr(listing, "OFFICIAL", hub.url)
    nobody = problem_of(list_model("own/secret", "hf"), 401, "config.json")
    assert f"{hub.url}/own/secret" in str(nobody.hint)
    assert "hf auth login" in str(nobody.hint)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    asked = problem_of(list_model("own/secret", "hf"), 403, "config.json")
    assert "申请" in str(asked.hint)
    assert problem_of(found, 404, "config.json").code == "hub.missing-file"
    hub.api_faults = [Fault(status=403, headers={"X-Error-Code": "GatedRepo"})]
    assert isinstance(refusal("own/secret"), RefusedError)


def test_nobody_at_home(monkeypatch: pytest.MonkeyPatch, hub: HubServer) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    error = refusal("own/tiny")
    assert isinstance(error, NetworkError)
    assert (error.code, error.place) == ("hub.unreachable", "http://127.0.0.1:9")


@pytest.mark.parametrize("source", ["nix", "ftp://x/y", "./no-such-folder"])
def test_a_source_nobody_knows(source: str) -> None:
    error = refusal("own/tiny", source)
    assert isinstance(error, ConfigError)
    assert error.code == "hub.bad-source"


# ---- a web server that only has files -------------------------------------------------------------------------------


@pytest.fixture
def web(tmp_path: Path, hub: HubServer) -> Iterator[str]:
    """The address of ``python -m http.server`` in a folder with ``own/tiny`` in two shards."""
    folder = tmp_path / "web" / "own" / "tiny"
    folder.mkdir(parents=True)
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")
    for name in ("config.json", *index["weight_map"].values()):
        (folder / name).write_bytes(name.encode())

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path / "web"))
    )
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_web_server_is_asked_for_known_names_and_the_shards(web: str, tmp_path: Path) -> None:
    for name, source in (("own/tiny", web), ("", f"{web}/own/tiny/"), ("tiny", f"{web}/own")):
        found = list_model(name, source)
        assert {file.path: file.size for file in found.files} == {
            path.name: path.stat().st_size for path in (tmp_path / "web" / "own" / "tiny").iterdir()
        }
        assert (found.hub, found.token) == ("url", None)
    assert refusal("own/none", web).code == "model.not-found"


def test_a_web_server_with_our_note_gives_hashes(web: str, tmp_path: Path) -> None:
    entries = {"config.json": {"size": 11, "sha256": sha256(b"config.json")}, "odd": 3}
    note = {"hub": "hf", "id": "own/tiny", "revision": "b" * 40, "files": entries}
    (tmp_path / "web" / "own" / "tiny" / SOURCE).write_text(json.dumps(note), "utf-8")
    for name, source in (("own/tiny", web), ("", f"{web}/own/tiny")):
        found = list_model(name, source)
        assert (found.id, found.hub, found.origin, found.revision) == ("own/tiny", "url", "hf", "b" * 40)
    assert list_model("tiny", f"{web}/own").origin is None  # a note about another name
    [file] = found.files
    assert (file.path, file.size, file.sha256) == ("config.json", 11, sha256(b"config.json"))


def test_an_index_of_a_web_server_cannot_lead_out(web: str, tmp_path: Path) -> None:
    index = tmp_path / "web" / "own" / "tiny" / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "../../../etc/passwd"}}', "utf-8")
    assert refusal("own/tiny", web).code == "hub.unsafe-name"


# ---- a folder -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "place", ["own/tiny", "tiny", "own--tiny", "models--own--tiny/snapshots/abc", "."], ids=lambda place: place[:12]
)
def test_a_folder_of_models_is_searched(tmp_path: Path, place: str) -> None:
    folder = tmp_path / place
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_bytes(b"{}")
    if "snapshots" in place:
        (tmp_path / "models--own--tiny" / "refs").mkdir()
        (tmp_path / "models--own--tiny" / "refs" / "main").write_text("abc", "utf-8")
    found = list_model("own/tiny", str(tmp_path))
    assert "config.json" in [file.path for file in found.files]
    assert Path(found.page).resolve() == folder.resolve()


def test_a_folder_without_the_model_names_neighbours(tmp_path: Path) -> None:
    (tmp_path / "tiny-2").mkdir()
    error = refusal("own/tiny", str(tmp_path))
    assert error.code == "model.not-found"
    assert "tiny-2" in error.message


# ---- ModelScope -----------------------------------------------------------------------------------------------------


def test_without_its_library_modelscope_is_told_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "modelscope_hub", None)
    error = refusal("own/tiny", "modelscope")
    assert isinstance(error, MachineError)
    assert error.code == "hub.no-library"


def fake_library(monkeypatch: pytest.MonkeyPatch, files: list[SimpleNamespace] | Exception) -> ModuleType:
    """A stand-in for ``modelscope_hub`` with the names that are used of it."""
    errors = ModuleType("modelscope_hub.errors")
    hub_error = type("HubError", (Exception,), {})
    for name in ("NotExistError", "AuthenticationError", "PermissionDeniedError", "NetworkError"):
        setattr(errors, name, type(name, (hub_error,), {}))
    errors.HubError = hub_error  # type: ignore[attr-defined]

    class Api:
        legacy = SimpleNamespace(get_download_url=lambda name, kind, path, revision: f"https://ms/{name}/{path}")

        def __init__(self, config: object) -> None: ...

        def list_repo_files(self, name: str, kind: str, *, revision: str | None) -> list[SimpleNamespace]:
            if isinstance(files, Exception):
                raise files
            return files

    library = ModuleType("modelscope_hub")
    library.HubApi = Api  # type: ignore[attr-defined]
    library.HubConfig = lambda: SimpleNamespace(endpoint="https://ms", token="ms_secret")  # type: ignore[attr-defined]
    library.errors = errors  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "modelscope_hub", library)
    return errors


def test_modelscope_lists_through_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    files = [
        SimpleNamespace(path="config.json", size=2, sha256="c" * 64, is_dir=False),
        SimpleNamespace(path="original", size=0, sha256=None, is_dir=True),
    ]
    fake_library(monkeypatch, files)
    found = list_model("own/tiny", "modelscope")
    [file] = found.files
    assert (file.path, file.size, file.sha256, file.url) == (
        "config.json",
        2,
        "c" * 64,
        "https://ms/own/tiny/config.json",
    )
    assert (found.revision, found.token) == ("master", listing.Token("https://ms", "ms_secret"))


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("NotExistError", "model.not-found"),
        ("AuthenticationError", "hub.gated"),
        ("PermissionDeniedError", "hub.gated"),
        ("NetworkError", "hub.unreachable"),
    ],
)
def test_what_modelscope_refuses(monkeypatch: pytest.MonkeyPatch, kind: str, code: str) -> None:
    errors = fake_library(monkeypatch, [])
    fake_library(monkeypatch, getattr(errors, kind)())
    monkeypatch.setattr(sys.modules["modelscope_hub"], "errors", errors)
    assert refusal("own/tiny", "modelscope").code == code


def test_the_real_library_of_modelscope(hub: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("modelscope_hub")
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", hub.url)
    monkeypatch.setenv("MODELSCOPE_HOME", str(tmp_path))
    found = list_model("own/tiny", "modelscope")
    assert {file.path: file.sha256 for file in found.files} == {path: sha256(data) for path, data in FILES.items()}
    assert all(file.url.startswith(hub.url) for file in found.files)
    assert refusal("own/none", "modelscope").code == "model.not-found"
