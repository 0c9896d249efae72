"""Names of data sets: old ones lead to where the files are, and without a network the way around it is told."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from hantune.data.hubs import DataSet, data_set, part_of
from hantune.data.opening import open_source
from hantune.data.sources import expand, inspect, read_parts
from hantune.errors import DataError, HantuneError, MachineError, NetworkError


@pytest.mark.parametrize(
    ("given", "id", "hub"),
    [
        ("lccc-base", "silver/lccc", "hf"),
        ("lccc_base", "silver/lccc", "hf"),
        ("thu-coai/lccc", "silver/lccc", "hf"),
        ("thu-coai/LCCC-large", "silver/lccc", "hf"),
        ("samsum", "knkarthick/samsum", "hf"),
        ("Samsung/samsum", "knkarthick/samsum", "hf"),
        ("BelleGroup/train_1M_CN", "BelleGroup/train_1M_CN", "hf"),
        ("hf:FreedomIntelligence/huatuo_encyclopedia_qa", "FreedomIntelligence/huatuo_encyclopedia_qa", "hf"),
        ("modelscope:AI-ModelScope/train_0.5M_CN", "AI-ModelScope/train_0.5M_CN", "modelscope"),
        ("ms:a/b", "a/b", "modelscope"),
    ],
)
def test_names(given: str, id: str, hub: str) -> None:
    found = data_set(given)
    assert found
    assert (found.id, found.hub) == (id, hub)


def test_lccc_is_its_files() -> None:
    base, large = data_set("lccc-base"), data_set("lccc-large")
    assert base
    assert large
    assert [part_of(file) for file in base.files] == ["train", "val", "test"]
    assert large.files == ("lccc_large.jsonl.gz",)


@pytest.mark.parametrize("given", ["a.json", "没有/这个", "a/b/c", "data/a.jsonl", "x/a.csv.gz", "x", "../a", "hf:x"])
def test_paths_are_no_data_sets(given: str) -> None:
    assert data_set(given) is None


def test_a_folder_that_exists_makes_it_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert data_set("owner/name") == DataSet("hf", "owner/name")
    (tmp_path / "owner").mkdir()
    assert data_set("owner/name") is None


@pytest.mark.parametrize(
    ("file", "part"),
    [
        ("data/train-00000-of-00002.parquet", "train"),
        ("data/validation-00000.parquet", "val"),
        ("test/0.jsonl", "test"),
        ("x/dev.json", "val"),
        ("Belle_open_source_1M.json", None),
        ("trainer.json", None),
    ],
)
def test_parts_by_their_names(file: str, part: str | None) -> None:
    assert part_of(file) == part


def test_without_network_the_way_around_is_told() -> None:
    for given in ("thu-coai/lccc-base", "BelleGroup/train_1M_CN#500"):
        with pytest.raises(NetworkError) as caught:
            expand(given)
        assert (caught.value.code, caught.value.exit_code) == ("source.hub-unreachable", 4)
        assert "拷过来" in str(caught.value.hint)
    assert "huggingface.co/datasets/BelleGroup/train_1M_CN" in str(caught.value.hint)
    assert "Belle_open_source_1M.json" in str(caught.value.hint)


def hub(monkeypatch: pytest.MonkeyPatch, folder: Path, error: Exception | None = None) -> list[dict[str, Any]]:
    """A hub that always has ``folder`` or always fails; returns what it was asked."""
    asked: list[dict[str, Any]] = []

    def snapshot_download(id: str, **options: Any) -> str:
        asked.append({"id": id, **options})
        if error:
            raise error
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    return asked


def test_what_is_fetched_is_read_by_its_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("train", "valid", "test"):
        (tmp_path / f"lccc_base_{name}.jsonl.gz").write_text('["你 好", "好"]\n', encoding="utf-8")
    asked = hub(monkeypatch, tmp_path)
    places = expand("lccc-base")
    assert asked[0]["allow_patterns"] == [place.path.name for place in places]
    assert asked[0]["repo_type"] == "dataset"
    assert places[0].name == "silver/lccc/lccc_base_train.jsonl.gz"
    assert [part for place in places for part, _ in read_parts(inspect(place))] == ["train", "val", "test"]
    (tmp_path / "code.py").write_text("raise SystemExit", encoding="utf-8")
    assert [place.part for place in expand("some/thing")] == ["test", "train", "val"]
    assert not any(pattern.endswith((".py", ".bin")) for pattern in asked[-1]["allow_patterns"])


def test_belle_huatuo_and_samsum_by_their_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shapes of the files as their pages show them; a word of the id (``train_1M_CN``) tells no part."""
    pair = {"instruction": "写诗", "input": "", "output": "好"}
    huatuo = {"questions": [["怎么吃", "怎么服用"]], "answers": ["遵医嘱"]}
    files = {
        "BelleGroup/train_1M_CN": {"Belle_open_source_1M.json": pair},
        "BelleGroup/train_0.5M_CN": {"Belle_open_source_0.5M.json": pair},
        "FreedomIntelligence/huatuo_encyclopedia_qa": {
            "train_datasets.jsonl": huatuo, "validation_datasets.jsonl": huatuo, "test_datasets.jsonl": huatuo,
        },
        "FreedomIntelligence/HuatuoGPT-sft-data-v1": {
            "HuatuoGPT_sft_data_v1.jsonl": {"data": ["问：头疼怎么办\n", "答：多休息"]},
        },
    }  # fmt: skip
    found = {}
    for id, contents in files.items():
        folder = tmp_path / id
        folder.mkdir(parents=True)
        for name, record in contents.items():
            (folder / name).write_text((json.dumps(record, ensure_ascii=False) + "\n") * 2, encoding="utf-8")
        hub(monkeypatch, folder)
        sources = [inspect(place) for place in expand(id)]
        found[id] = [(source.part, open_source(source, None).found.name) for source in sources]
    assert found == {
        "BelleGroup/train_1M_CN": [(None, "alpaca")],
        "BelleGroup/train_0.5M_CN": [(None, "alpaca")],
        "FreedomIntelligence/HuatuoGPT-sft-data-v1": [(None, "huatuo")],
        "FreedomIntelligence/huatuo_encyclopedia_qa": [("test", "pairs"), ("train", "pairs"), ("val", "pairs")],
    }
    (tmp_path / "samsum").mkdir()
    for part in ("train", "validation", "test"):
        (tmp_path / "samsum" / f"{part}.csv").write_text('id,dialogue,summary\n1,"A: hi\r\nB: yo",They greet.\n')
    hub(monkeypatch, tmp_path / "samsum")
    places = expand("Samsung/samsum")
    assert [place.part for place in places] == ["test", "train", "val"]
    assert {open_source(inspect(place), None).found.name for place in places} == {"samsum"}


def test_a_half_fetched_data_set_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch, tmp_path)
    with pytest.raises(NetworkError, match="没有下载完"):
        expand("lccc-large")


def test_a_full_disk_is_not_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch, tmp_path, OSError(errno.ENOSPC, "full"))
    with pytest.raises(MachineError) as caught:
        expand("lccc-large")
    assert caught.value.code == "machine.disk-full"


def test_a_data_set_that_does_not_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class RepositoryNotFoundError(Exception):
        pass

    hub(monkeypatch, tmp_path, RepositoryNotFoundError())
    with pytest.raises(DataError) as caught:
        expand("nobody/nothing")
    assert caught.value.code == "source.missing"


def test_without_modelscope_its_installation_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "modelscope", None)
    with pytest.raises(HantuneError) as caught:
        expand("modelscope:a/b")
    assert isinstance(caught.value, MachineError)
    assert caught.value.code == "source.hub-library"
