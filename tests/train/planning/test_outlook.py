"""What a run will take, and whether that is there."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hantune.config.schema import RunConfig
from hantune.models.headers import tensor_places
from hantune.paths import RunFolder
from hantune.train.planning import memory as estimates
from hantune.train.planning import outlook
from hantune.train.planning.outlook import look_ahead, num_parameters, precision_on
from hantune.train.planning.target import Target, here, parse_devices
from hantune.train.recompute import Recompute
from hantune.train.setup import Material, open_material
from tests.runs import small_config

CPU = torch.device("cpu")
MIB = 1 << 20


@pytest.fixture(scope="module")
def material(tiny_llama_folder: Path, prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Material:
    folder = tmp_path_factory.mktemp("material")
    return open_material(small_config(tiny_llama_folder, prepared, folder / "no"), RunFolder(folder))


@pytest.fixture
def config(tiny_llama_folder: Path, prepared: Path, tmp_path: Path) -> RunConfig:
    return small_config(tiny_llama_folder, prepared, tmp_path / "no")


def changed(config: RunConfig, **values: Any) -> RunConfig:
    """``train__epochs=1`` and so on."""
    for name, value in values.items():
        section, _, key = name.partition("__")
        part = getattr(config, section).model_copy(update={key: value})
        config = config.model_copy(update={section: part})
    return config


def test_the_parts_add_up(config: RunConfig, material: Material, tiny_llama_folder: Path) -> None:
    found = look_ahead(config, material, here(CPU))
    memory, tensors = found.memory, found.memory.tensors
    assert memory.peak >= memory.process + tensors.most
    assert memory.peak >= memory.loading
    assert tensors.most >= tensors.standing + tensors.activations
    assert found.parameters == num_parameters(config) + found.learned
    stored = sum(spec.num_bytes for _, spec in tensor_places(tiny_llama_folder).values())
    assert tensors.base == pytest.approx(stored, rel=0.001), "and what is made beside: rotary frequencies"
    assert (found.fits, found.fits_disk) == (True, True)
    assert found.disk.checkpoint == tensors.learned + tensors.optimizer
    assert found.disk.most == (config.train.keep_checkpoints + 2) * found.disk.checkpoint + found.disk.output
    assert found.disk.output == tensors.learned
    whole = estimates.estimate_disk(changed(config, adapter__kind="none"), tensors)
    assert whole.output == tensors.learned + tensors.base
    assert found.largest.longest == material.train.lengths.max()
    assert found.plan.probes.steps == (0, 2), "the questions are planned as in the run"
    told = json.loads(json.dumps(found.as_dict(), ensure_ascii=False))
    assert told["memory"]["fits"] is True
    assert told["memory"]["tensors"]["rest"] >= 0


@pytest.mark.slow
def test_what_is_more_takes_more(config: RunConfig, material: Material) -> None:
    def peak(**values: Any) -> int:
        found = look_ahead(changed(config, **values), material, parse_devices("1GB"))
        return found.memory.tensors.most

    usual = peak()
    assert peak(train__batch_size=8) > usual
    assert peak(adapter__rank=32) > usual
    assert peak(train__ema_decay=0.9) > usual
    assert peak(train__activation_checkpointing=True) < usual
    assert peak(adapter__kind="none") > peak(adapter__kind="none", train__optimizer="adamw8bit") > usual


def test_auto_recomputes_where_it_does_not_fit_otherwise(config: RunConfig, material: Material) -> None:
    config = changed(config, train__activation_checkpointing="auto")
    usual = look_ahead(config, material, parse_devices("1GB"))
    assert not usual.recompute.is_on
    assert "放得下" in usual.recompute.reason
    tight = replace(usual.target, room=usual.memory.peak)
    found = look_ahead(config, material, tight)
    assert found.recompute.is_on
    assert "放不下" in found.recompute.reason
    assert found.memory.peak < usual.memory.peak
    decided = Recompute(is_on=False, reason="接着练")
    assert look_ahead(config, material, tight, recompute=decided).recompute is decided


def test_where_the_memory_is_not_known_everything_fits(config: RunConfig, material: Material) -> None:
    found = look_ahead(config, material, Target(device=CPU, room=None))
    assert found.fits
    assert not replace(found, target=Target(device=CPU, room=1)).fits


def test_a_full_disk_is_seen_here_only(
    config: RunConfig, material: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outlook.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    assert not look_ahead(config, material, here(CPU)).fits_disk
    assert look_ahead(config, material, parse_devices("1GB")).fits_disk


def test_cards_elsewhere_are_taken_to_have_bf16(config: RunConfig, material: Material) -> None:
    found = look_ahead(changed(config, train__precision="auto"), material, parse_devices("2x1GB"))
    assert (found.precision.name, found.target.total) == ("bf16", 2)
    assert found.memory.process == estimates.CONTEXT_BYTES
    assert found.plan.probes.steps == ()


def test_a_card_holds_the_tensors_and_the_machine_beside_it_what_passes(config: RunConfig, material: Material) -> None:
    found = look_ahead(config, material, parse_devices("1GB"))
    tensors, weights = found.memory.tensors, estimates.Weights(stored=10**9, passing=0, converted=0)
    memory = estimates.estimate_memory(tensors, weights, found.target, saves_behind=True, process=1000)
    assert memory.peak == memory.needed == estimates.CONTEXT_BYTES + tensors.most + memory.holes
    assert memory.host == 1000 + 10**9 + tensors.learned + tensors.optimizer


def test_weights_of_another_type_are_held_twice_while_loading(
    config: RunConfig, material: Material, tiny_llama_folder: Path
) -> None:
    specs = [spec for _, spec in tensor_places(tiny_llama_folder).values()]

    def held(name: str, load: str = "full") -> estimates.Weights:
        asked = changed(config, train__precision=name)
        return estimates.Weights.of(specs, precision_on(asked, parse_devices("1GB")), load, 7)

    same, other, packed, rounded = held("float32"), held("bf16"), held("bf16", "4bit"), held("bf16", "fp8")
    assert (same.passing, same.converted) == (0, 0)
    assert (other.passing, other.converted) == (same.stored, same.stored // 2)
    assert (packed.passing, packed.converted) == (same.stored, 7)
    assert (rounded.passing, rounded.converted) == (same.stored, same.stored // 2)


def test_a_checkpoint_that_is_written_behind_the_run_is_a_copy(config: RunConfig, material: Material) -> None:
    found = look_ahead(config, material, Target(device=CPU, room=None))
    tensors, loaded = found.memory.tensors, estimates.Weights(stored=0, passing=0, converted=0)
    waiting, behind = (
        estimates.estimate_memory(tensors, loaded, found.target, saves_behind=is_behind, process=0).peak
        for is_behind in (False, True)
    )
    assert behind - waiting == tensors.learned + tensors.optimizer > 0


def test_pages_of_files_that_only_pass_are_not_needed(config: RunConfig, material: Material) -> None:
    """The system takes them back before it kills anybody, though it counts them as the process's at the peak."""
    found = look_ahead(changed(config, train__precision="bf16"), material, Target(device=CPU, room=None))
    large = estimates.Weights(stored=10**12, passing=10**12, converted=10**3)
    memory = estimates.estimate_memory(
        found.memory.tensors, large, found.target, saves_behind=False, process=found.memory.process
    )
    assert memory.peak == memory.loading > 10**12 > memory.needed
    assert memory.needed == memory.process + memory.tensors.most + memory.holes
