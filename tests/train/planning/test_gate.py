"""What does not fit does not start, and the way out is said."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hantune.errors import RefusedError
from hantune.log import read_events
from hantune.models import load
from hantune.paths import RunFolder
from hantune.train.planning import memory, target
from hantune.train.planning import outlook as outlook_module
from hantune.train.planning.gate import no_fit, what_fits
from hantune.train.planning.ladder import Ladder, Rung
from hantune.train.planning.outlook import look_ahead
from hantune.train.planning.target import here, parse_devices
from hantune.train.run import resume, train
from hantune.train.setup import open_material
from tests.runs import small_config, story

Make = Callable[..., Any]


@pytest.fixture
def make(tiny_llama_folder: Path, prepared: Path, tmp_path: Path) -> Make:
    def made(name: str = "run", **changes: Any) -> Any:
        return small_config(tiny_llama_folder, prepared, tmp_path / name, **{"train__memory_check": True, **changes})

    return made


def leave(monkeypatch: pytest.MonkeyPatch, free: int | None) -> None:
    """A machine with so much memory left, this process and all."""
    monkeypatch.setattr(target, "own_memory", lambda: 0)
    monkeypatch.setattr(target, "free_memory", lambda device: free)


def test_what_does_not_fit_does_not_start(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "process_memory", lambda: (100 << 20, 100 << 20))
    config = make(train__activation_checkpointing=False, train__prepack=False)
    found = look_ahead(config, open_material(config, RunFolder(tmp_path)), here(torch.device("cpu"))).memory
    leave(monkeypatch, found.needed - int(0.02 * (found.needed - found.process)))
    loaded: list[Any] = []
    monkeypatch.setattr(load, "load_model", lambda *_, **__: loaded.append(1))
    with pytest.raises(RefusedError) as caught:
        train(config)
    assert (caught.value.code, caught.value.exit_code) == ("plan.no-fit", 3)
    assert "内存放不下" in caught.value.message
    assert "train.activation_checkpointing=true" in caught.value.message
    assert "train.memory_check=false" in (caught.value.hint or "")
    str(caught.value).encode("gbk")
    assert not loaded, "refused before the weights are loaded"
    assert not (tmp_path / "run").exists()


def test_one_can_go_ahead_all_the_same(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    leave(monkeypatch, 300 << 20)
    assert train(make(train__memory_check=False)).steps == 2


def test_where_the_memory_is_not_known_the_gate_is_open(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    leave(monkeypatch, None)
    assert train(make()).steps == 2


def test_looking_ahead_changes_no_bit_and_is_remembered(make: Make) -> None:
    looked, blind = train(make("looked")), train(make("blind", train__memory_check=False))
    assert story(looked.run) == story(blind.run)
    kept = looked.run.adapter / "adapter_model.safetensors"
    assert kept.read_bytes() == (blind.run.adapter / "adapter_model.safetensors").read_bytes()
    expected = looked.figures["memory_expected"]
    assert 0.5 < expected / looked.figures["memory_peak"] < 2, "a process that has run other tests holds more"
    assert read_events(looked.run.events, "start")[0]["expected"]["total"] > 0
    assert "memory_expected" not in blind.figures


@pytest.mark.slow
def test_a_run_that_goes_on_is_looked_at_too(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    done = train(make())
    (done.run.root / "events.jsonl").write_text("", encoding="utf-8")
    leave(monkeypatch, 300 << 20)
    with pytest.raises(RefusedError) as caught:
        resume(done.run.root)
    assert caught.value.code == "plan.no-fit"
    assert resume(done.run.root, ["train.memory_check=false"]).steps == 2


@pytest.mark.parametrize("kept", [3, 2])
def test_a_full_disk_is_refused(make: Make, monkeypatch: pytest.MonkeyPatch, kept: int) -> None:
    monkeypatch.setattr(outlook_module.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(RefusedError) as caught:
        train(make(train__keep_checkpoints=kept))
    assert (caught.value.code, caught.value.exit_code) == ("plan.no-disk", 3)
    assert ("train.keep_checkpoints=2" in (caught.value.hint or "")) is (kept > 2)
    assert "train.output_dir" in (caught.value.hint or "")


def test_a_way_out_is_promised_only_where_there_is_one(make: Make, tmp_path: Path) -> None:
    config = make()
    found = look_ahead(config, open_material(config, RunFolder(tmp_path)), parse_devices("1GB"))
    tight = replace(found, target=replace(found.target, room=1))
    rung = Rung(values={"adapter.rank": 4}, cost="")
    for last, words in ((found, "adapter.rank=4"), (tight, "换小一些的模型")):
        refusal = no_fit(tight, Ladder(rungs=(rung,), needed=(rung,), last=last))
        assert words in (refusal.hint or "")


def test_what_fits_is_a_rule_of_three(make: Make, tmp_path: Path) -> None:
    config = make()
    material = open_material(config, RunFolder(tmp_path))
    found = look_ahead(config, material, parse_devices("1GB"))
    memory = found.memory
    fixed = memory.peak - memory.tensors.most - memory.holes

    def told(room: int) -> str:
        return what_fits(replace(found, target=replace(found.target, room=room)))

    half = (memory.tensors.most + memory.holes - memory.tensors.standing) // 2
    assert f"{found.largest.longest // 2} 个词元" in told(fixed + memory.tensors.standing + half + 1000)
    assert "连最小的模型也放不下" in told(fixed)
    large = replace(found, parameters=10 * found.parameters * 10**4)
    assert "B 参数" in what_fits(replace(large, target=replace(found.target, room=fixed + memory.tensors.standing)))
