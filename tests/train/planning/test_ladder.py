"""Changes that make a run smaller: the cheapest that are enough."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hantune.config.schema import RunConfig
from hantune.errors import MachineError
from hantune.paths import RunFolder
from hantune.train.planning import ladder, rehearsal
from hantune.train.planning.ladder import Ladder, Rung, Shortened, _merged, climb, with_changes
from hantune.train.planning.outlook import Outlook, look_ahead
from hantune.train.planning.target import Target, parse_devices
from hantune.train.setup import Material, open_material
from tests.runs import small_config


@pytest.fixture(scope="module")
def material(tiny_llama_folder: Path, prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Material:
    folder = tmp_path_factory.mktemp("material")
    return open_material(small_config(tiny_llama_folder, prepared, folder / "no"), RunFolder(folder))


def climbed(config: RunConfig, material: Material, share: float) -> tuple[Outlook, Ladder]:
    """A ladder where ``share`` of the memory that tensors want is there."""
    target = parse_devices("1GB")
    wanted = look_ahead(config, material, target).memory
    tensors = wanted.tensors.most + wanted.holes
    target = replace(target, room=wanted.peak - int((1 - share) * tensors))
    outlook = look_ahead(config, material, target)
    return outlook, climb(config, material, outlook)


def config_of(folder: Path, prepared: Path, **changes: Any) -> RunConfig:
    return small_config(folder, prepared, Path("no"), train__activation_checkpointing=False, **changes)


def test_the_first_rung_is_enough_where_little_is_missing(
    tiny_llama_folder: Path, prepared: Path, material: Material
) -> None:
    outlook, found = climbed(config_of(tiny_llama_folder, prepared), material, 0.97)
    assert found.fits
    assert found.values == {"train.activation_checkpointing": True}
    assert found.rungs[0].saves == outlook.memory.peak - found.rungs[0].peak > 0
    assert found.last.memory.peak == found.rungs[0].peak
    found.rungs[0].cost.encode("gbk")


@pytest.mark.parametrize("share", [0.75, pytest.param(0.35, marks=pytest.mark.slow)])
def test_the_needed_changes_are_the_fewest_and_they_fit(
    share: float, tiny_llama_folder: Path, prepared: Path, material: Material
) -> None:
    config = config_of(tiny_llama_folder, prepared, adapter__kind="none")
    outlook, found = climbed(config, material, share)
    assert found.fits
    changed = with_changes(config, found.values)
    again = look_ahead(changed, material, outlook.target)
    assert again.memory.peak == found.last.memory.peak <= (outlook.target.room or 0)
    for rung in found.needed:
        others = {name: v for other in found.needed if other is not rung for name, v in other.values.items()}
        assert not look_ahead(with_changes(config, others), material, outlook.target).fits, rung
    peaks = [outlook.memory.peak, *(rung.peak for rung in found.rungs)]
    assert [a - b for a, b in zip(peaks, peaks[1:], strict=False)] == [rung.saves for rung in found.rungs]
    assert "kind" not in found.values or changed.adapter.kind == "lora"


@pytest.mark.slow
def test_where_nothing_helps_all_rungs_are_told(
    tiny_llama_folder: Path, prepared: Path, material: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ladder, "SHORTEST", 16)
    _, found = climbed(config_of(tiny_llama_folder, prepared), material, 0.01)
    assert not found.fits
    names = [name for rung in found.rungs for name in rung.values]
    assert names[:2] == ["train.activation_checkpointing", "train.batch_tokens"]
    assert {"train.precision", "model.load", "data.max_tokens"} <= set(names)
    assert len(set(names)) == len(names), "what is halved twice is one rung"
    assert names[-1] == "data.max_tokens", "what is learned changes last"
    assert found.values == {name: value for rung in found.rungs for name, value in rung.values.items()}


@pytest.mark.slow
def test_a_library_that_is_missing_is_no_way_out(
    tiny_llama_folder: Path, prepared: Path, material: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ladder.look_ahead

    def without(config: RunConfig, material: Material, target: Target, **rest: Any) -> Outlook:
        if config.model.load != "full":
            raise MachineError("machine.no-bitsandbytes", "fehlt")
        return real(config, material, target, **rest)

    monkeypatch.setattr(ladder, "look_ahead", without)
    _, found = climbed(config_of(tiny_llama_folder, prepared), material, 0.01)
    assert "model.load" not in found.values


def test_what_saves_little_is_left_out_and_what_is_no_longer_needed_is_taken_back(
    tiny_llama_folder: Path, prepared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saves = {"train.batch_size": 9, "train.seed": 200, "adapter.rank": 150, "data.max_tokens": 300, "train.epochs": 400}
    rungs = [Rung(values={name: 77}, cost="") for name in saves]
    config = config_of(tiny_llama_folder, prepared)

    def look(changed: RunConfig, *rest: Any) -> Any:
        made = changed.model_dump()
        parts = {name: made[name.split(".")[0]][name.split(".")[1]] for name in saves}
        needed = 900 - sum(saves[name] for name, value in parts.items() if value == 77)
        memory = SimpleNamespace(needed=needed, tensors=SimpleNamespace(most=1000))
        return SimpleNamespace(memory=memory, fits=needed <= 500)

    monkeypatch.setattr(ladder, "_outlook", look)
    monkeypatch.setattr(ladder, "KINDS", [lambda config, now: iter(rungs)])
    found = climb(config, None, look(config))  # type: ignore[arg-type]
    assert [rung.saves for rung in found.rungs] == [200, 150, 300], "9 is not worth it, and after 300 it fits"
    assert found.values == {"train.seed": 77, "data.max_tokens": 77}, "both are needed, the rank is not"
    assert found.last.memory.needed == 400


def test_what_is_halved_twice_is_one_change_that_saves_both() -> None:
    half, quarter = (
        Rung(values={"adapter.rank": rank}, cost="", saves=saves, peak=peak)
        for rank, saves, peak in ((8, 50, 90), (4, 25, 65))
    )
    other = Rung(values={"data.max_tokens": 64}, cost="", saves=5, peak=60)
    assert _merged([half, quarter, other]) == [replace(quarter, saves=75), other]


def test_each_kind_of_change_knows_where_it_ends(tiny_llama_folder: Path, prepared: Path) -> None:
    def values(kind: Any, **changes: Any) -> list[Any]:
        now: Any = SimpleNamespace(largest=SimpleNamespace(longest=1000), precision=SimpleNamespace(name="float32"))
        rungs = kind(config_of(tiny_llama_folder, prepared, **changes), now)
        return [value for rung in rungs for value in rung.values.values()]

    assert values(ladder._fewer_bits) == ["bf16", "8bit", "4bit"]
    assert values(ladder._fewer_bits, model__load="8bit") == ["4bit"]
    assert values(ladder._fewer_bits, adapter__kind="none") == [], "what is learned is not packed"
    assert values(ladder._lean_optimizer, train__optimizer="paged_adamw") == ["paged_adamw8bit"]
    assert values(ladder._lean_optimizer, train__optimizer="adamw8bit", train__ema_decay=0.9) == [0.0]
    assert values(ladder._lower_rank, adapter__rank=20) == [10, 5]
    assert values(ladder._lower_rank, adapter__kind="none") == []
    assert values(ladder._shorter, data__max_tokens=300) == [150, 75]


@pytest.mark.parametrize(("rate", "wanted"), [(1e-5, 2e-4), (1e-3, 1e-3)])
def test_an_adapter_learns_faster_than_a_whole_model(
    tiny_llama_folder: Path, prepared: Path, rate: float, wanted: float
) -> None:
    config = config_of(tiny_llama_folder, prepared, adapter__kind="none", train__learning_rate=rate)
    (rung,) = ladder._lora(config, None)  # type: ignore[arg-type]
    assert rung.values == {"adapter.kind": "lora", "train.learning_rate": wanted}


def test_shortened_samples(material: Material) -> None:
    cut = Shortened(material.train, 20)
    assert len(cut) == len(material.train)
    assert cut.lengths.max() == 20
    assert (len(cut[0].ids), len(cut[0].mask)) == (int(cut.lengths[0]),) * 2
    assert (cut.learned <= cut.lengths).all()


def test_changes_are_checked(tiny_llama_folder: Path, prepared: Path) -> None:
    config = config_of(tiny_llama_folder, prepared)
    assert with_changes(config, {"data.max_tokens": 64, "train.optimizer": "adamw8bit"}).data.max_tokens == 64
    with pytest.raises(ValueError, match=r"data\.max_tokens|max_tokens"):
        with_changes(config, {"data.max_tokens": 1})
    assert rehearsal.FEW == (2, 3)
