"""Names of models: paths, hub ids, and what is neither."""

from __future__ import annotations

from pathlib import Path

import pytest

from hantune.errors import ModelError, NetworkError
from hantune.models.hub import hub_origin, is_hub_id, local_folder


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
