"""A folder in the making: kept over an interrupt, taken away by an error, and never believed without its checksum."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hantune.errors import ModelError, RunError
from hantune.models.convert.unfinished import checksum, unfinished_folder, unfinished_path
from hantune.models.headers import TensorSpec
from hantune.models.shards import write_tensors

TENSORS = {"a": torch.arange(6.0), "b": torch.ones(2, 3).bfloat16(), "c": torch.tensor(2.0)}
SPECS = {"a": TensorSpec("F32", (6,)), "b": TensorSpec("BF16", (2, 3)), "c": TensorSpec("F32", ())}


def fill(out: Path, *, plan: str = "p", end: BaseException | None = None) -> list[str]:
    """One process that writes TENSORS one a file and ends so; the names it had to make."""
    made: list[str] = []

    def tensor_of(name: str) -> torch.Tensor:
        made.append(name)
        return TENSORS[name]

    with unfinished_folder(out, plan) as work:
        write_tensors(work.path, SPECS, tensor_of, shard_bytes=1, write=work.write)
        (work.path / "config.json").write_text("{}", encoding="utf-8")
        if end is not None:
            raise end
    return made


def test_the_finished_folder_holds_the_files_and_nothing_else(tmp_path: Path) -> None:
    assert fill(tmp_path / "out") == ["a", "b", "c"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "config.json", "model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors",
        "model-00003-of-00003.safetensors", "model.safetensors.index.json",
    ]  # fmt: skip
    assert not unfinished_path(tmp_path / "out").exists()


def test_an_interrupt_keeps_what_is_whole(tmp_path: Path) -> None:
    for end in (KeyboardInterrupt(), SystemExit(143)):
        with pytest.raises(type(end)):
            fill(tmp_path / "out", end=end)
        assert not (tmp_path / "out").exists()
    assert fill(tmp_path / "out") == []


def test_an_error_takes_everything_away(tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        fill(tmp_path / "out", end=ModelError("a.b", "x"))
    assert not list(tmp_path.iterdir())


def test_a_changed_file_or_another_plan_is_made_anew(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path / "out", end=KeyboardInterrupt())
    path = unfinished_path(tmp_path / "out") / "model-00002-of-00003.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path / "out", end=KeyboardInterrupt())
    assert fill(tmp_path / "out", plan="p") == []
    other = tmp_path / "other"
    with pytest.raises(KeyboardInterrupt):
        fill(other, end=KeyboardInterrupt())
    assert fill(other, plan="q") == ["a", "b", "c"]


def test_a_broken_journal_is_no_journal(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path / "out", end=KeyboardInterrupt())
    (unfinished_path(tmp_path / "out") / "unfinished.json").write_text("{", encoding="utf-8")
    assert fill(tmp_path / "out") == ["a", "b", "c"]


def test_only_one_works_and_only_on_a_free_name(tmp_path: Path) -> None:
    with unfinished_folder(tmp_path / "out", "p"), pytest.raises(RunError, match="in-use"):
        fill(tmp_path / "out")
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    for name in ("file", "full"):
        with pytest.raises(RunError, match="run.exists"):
            fill(tmp_path / name)


def test_the_checksum_sees_data_and_names(tmp_path: Path) -> None:
    write_tensors(tmp_path, SPECS, TENSORS.__getitem__)
    path = tmp_path / "model.safetensors"
    value = checksum(path, SPECS)
    assert value >= 0
    assert checksum(path, {**SPECS, "d": SPECS["a"]}) == -1
    path.write_bytes(path.read_bytes()[:-1])
    assert checksum(path, SPECS) == -1
