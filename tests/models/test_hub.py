"""Names of models: paths, names on hubs, and what is neither; from a name to a folder that remembers its origin."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from hantune.errors import HantuneError, ModelError, NetworkError, RefusedError, RunError
from hantune.models.fetch import listing, transfer
from hantune.models.fetch.needed import SOURCE
from hantune.models.hub import LOCK, get_model, hub_origin, is_hub_id, local_folder, own_folder, wanted
from hantune.paths import held
from tests.models.hub_server import Fault, HubServer, Repo

FILES = {"model.safetensors": b"weights" * 1000, "config.json": b"{}", "pytorch_model.bin": b"pickle" * 500}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub that ``HF_ENDPOINT`` names, an empty cache, nobody logged in, the network allowed."""
    with HubServer({"own/tiny": Repo(dict(FILES)), "own/secret": Repo(dict(FILES), gated=True)}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        monkeypatch.setenv("HANTUNE_HOME", str(tmp_path / "home"))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf"))
        monkeypatch.setattr(transfer, "backoff", lambda failures: 0.001)
        monkeypatch.setattr(listing, "backoff", lambda failures: 0.001)
        yield server


def refusal(name: str, **options: object) -> HantuneError:
    with pytest.raises(HantuneError) as caught:
        get_model(name, **options)  # type: ignore[arg-type]
    return caught.value


# ---- names ----------------------------------------------------------------------------------------------------------


def test_a_folder_is_itself(tmp_path: Path) -> None:
    assert local_folder(tmp_path) == tmp_path
    assert local_folder(str(tmp_path)) == tmp_path


def test_a_wrong_path_names_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "llama-tiny").mkdir()
    with pytest.raises(ModelError) as caught:
        local_folder(tmp_path / "lama-tiny")
    assert caught.value.code == "model.not-found"
    assert "llama-tiny" in caught.value.message
    assert str(tmp_path / "llama-tiny") in str(caught.value.hint)


def test_a_file_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError) as caught:
        local_folder(tmp_path / "model.safetensors")
    assert caught.value.code == "model.not-found"
    assert str(tmp_path) in str(caught.value.hint)


def test_a_hub_id_offline_is_a_network_error() -> None:
    with pytest.raises(NetworkError) as caught:
        local_folder("nobody/has-this-model")
    assert caught.value.code == "hub.unreachable"
    assert caught.value.exit_code == 4


def test_only_owner_slash_name_is_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    assert is_hub_id("meta-llama/Llama-2-7b-hf")
    assert not any(map(is_hub_id, ["m110", "./m110", "/a/b", "a/b/c", "~/m", "runs/none", "../m110", "汉/字"]))


def test_a_snapshot_in_the_cache_remembers_its_repository(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--org--name" / "snapshots" / "abc123"
    assert hub_origin(snapshot) == ("org/name", "abc123")
    assert hub_origin(tmp_path / "model") is None


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("own/tiny", ("own/tiny", "hf", None)),
        ("hf:own/tiny", ("own/tiny", "hf", None)),
        ("modelscope:own/tiny", ("own/tiny", "modelscope", None)),
        ("https://huggingface.co/own/tiny", ("own/tiny", "hf", None)),
        ("https://huggingface.co/own/tiny/tree/v2", ("own/tiny", "hf", "v2")),
        ("https://www.modelscope.cn/models/own/tiny", ("own/tiny", "modelscope", None)),
        ("http://server/models/tiny/", ("", "http://server/models/tiny/", None)),
    ],
)
def test_what_people_copy_from_a_browser_is_understood(given: str, meant: tuple[str, str, str | None]) -> None:
    assert wanted(given) == meant


@pytest.mark.parametrize("given", ["tiny", "../tiny", "a/b/c", "own/ti ny", "汉/字", ""])
def test_what_is_no_name_is_told_an_example(given: str) -> None:
    with pytest.raises(ModelError, match="作者/模型"):
        wanted(given)


# ---- fetching -------------------------------------------------------------------------------------------------------


def test_a_model_comes_with_its_origin_and_stays(hub: HubServer, tmp_path: Path) -> None:
    result = get_model("own/tiny", out=tmp_path / "m")
    assert (result["kind"], result["files"], result["revision"]) == ("safetensors", 2, "a" * 40)
    assert result["fetched"] == result["bytes"] == 7002
    assert result["left_out"] == {"files": 1, "bytes": 3000}
    assert hub_origin(tmp_path / "m") == ("own/tiny", "a" * 40)
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == ["config.json", SOURCE, "model.safetensors"]
    assert get_model("own/tiny", out=tmp_path / "m")["fetched"] == 0


def test_a_name_alone_is_fetched_once_and_then_works_offline(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = local_folder("own/tiny")
    assert folder == own_folder("own/tiny")
    asked = len(hub.log)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert local_folder("own/tiny") == folder
    assert local_folder("own/tiny", revision="a" * 40) == folder
    assert len(hub.log) == asked
    with pytest.raises(NetworkError, match="HF_HUB_OFFLINE"):
        local_folder("own/tiny", revision="b" * 40)


def test_the_cache_of_hugging_face_is_used(hub: HubServer, tmp_path: Path) -> None:
    snapshot = tmp_path / "hf" / "models--own--tiny" / "snapshots" / ("c" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").write_bytes(b"x")
    (tmp_path / "hf" / "models--own--tiny" / "refs").mkdir()
    (tmp_path / "hf" / "models--own--tiny" / "refs" / "main").write_text("c" * 40, "utf-8")
    assert local_folder("own/tiny") == snapshot
    assert not hub.log


def test_what_broke_off_is_not_taken_for_whole(hub: HubServer, tmp_path: Path) -> None:
    hub.faults["model.safetensors"] = [Fault(cut=3000)] + [Fault(status=503)] * 20
    assert refusal("own/tiny").code == "hub.broken-off"
    hub.faults.clear()
    assert (local_folder("own/tiny") / "model.safetensors").read_bytes() == FILES["model.safetensors"]


def test_a_new_version_replaces_the_old_whole(hub: HubServer, tmp_path: Path) -> None:
    get_model("own/tiny", out=tmp_path / "m")
    index = json.dumps({"weight_map": {"a": "model-00001-of-00001.safetensors"}}).encode()
    hub.repos["own/tiny"] = Repo(
        {
            "model-00001-of-00001.safetensors": b"new" * 1000,
            "model.safetensors.index.json": index,
            "config.json": b"{}",
        },
        sha="b" * 40,
    )
    assert get_model("own/tiny", out=tmp_path / "m")["fetched"] == 3000 + len(index)
    assert hub_origin(tmp_path / "m") == ("own/tiny", "b" * 40)
    assert not (tmp_path / "m" / "model.safetensors").exists()
    (tmp_path / "m" / "model-00001-of-00001.safetensors").write_bytes(b"bad" * 1000)
    assert get_model("own/tiny", out=tmp_path / "m")["fetched"] == 3000  # the same command mends


def test_a_folder_with_something_else_is_left_alone(hub: HubServer, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "diary.txt").write_bytes(b"mine")
    error = refusal("own/tiny", out=tmp_path / "m")
    assert isinstance(error, RunError)
    assert error.code == "run.exists"
    hub.repos["own/other"] = Repo(dict(FILES))
    get_model("own/other", out=tmp_path / "n")
    assert "own/other" in refusal("own/tiny", out=tmp_path / "n").message
    (tmp_path / "file").write_bytes(b"")
    assert refusal("own/tiny", out=tmp_path / "file").code in ("run.exists", "machine.no-write")


def test_two_at_once_fetch_once(hub: HubServer, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    with held(tmp_path / "m" / LOCK):
        assert refusal("own/tiny", out=tmp_path / "m").code == "run.in-use"
    assert not hub.sent()
    assert get_model("own/tiny", out=tmp_path / "m")["files"] == 2


def test_a_second_process_waits_for_the_first(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = own_folder("own/tiny")
    folder.mkdir(parents=True)
    first = contextlib.ExitStack()
    first.enter_context(held(folder / LOCK))
    waits = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            first.close()

    monkeypatch.setattr("hantune.models.hub.time.sleep", wait)
    assert local_folder("own/tiny") == folder
    assert len(waits) == 3


def test_a_gated_model_is_refused_before_a_folder_is_made(hub: HubServer, tmp_path: Path) -> None:
    error = refusal("own/secret", out=tmp_path / "m")
    assert isinstance(error, RefusedError)
    assert error.code == "hub.gated"
    assert not (tmp_path / "m").exists()


def test_a_gated_model_comes_to_who_may_have_it(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert refusal("own/secret", out=tmp_path / "m", send_token=True).code == "hub.gated"
    hub.token = "hf_secret"
    assert get_model("own/secret", out=tmp_path / "m", send_token=True)["files"] == 2


def test_a_hub_that_lists_names_outside_is_refused(hub: HubServer, tmp_path: Path) -> None:
    hub.repos["own/evil"] = Repo({**FILES, "../../evil.json": b"{}"})
    assert refusal("own/evil", out=tmp_path / "m").code == "hub.unsafe-name"
    assert not (tmp_path / "m").exists()


def test_a_model_goes_from_folder_to_folder_with_its_hashes(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    get_model("own/tiny", out=tmp_path / "mirror" / "own" / "tiny")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    result = get_model("own/tiny", source=str(tmp_path / "mirror"), out=tmp_path / "m")
    assert (result["hub"], result["unproved"], result["fetched"]) == ("folder", [], 7002)
    assert hub_origin(tmp_path / "m") == ("own/tiny", "a" * 40)
    (tmp_path / "mirror" / "own" / "tiny" / "config.json").write_bytes(b"[]")
    assert refusal("own/tiny", source=str(tmp_path / "mirror"), out=tmp_path / "n").code == "hub.wrong-bytes"
    os.unlink(tmp_path / "mirror" / "own" / "tiny" / SOURCE)
    result = get_model("own/tiny", source=str(tmp_path / "mirror"), out=tmp_path / "o")
    assert result["unproved"] == ["config.json", "model.safetensors"]
