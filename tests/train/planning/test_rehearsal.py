"""A step without contents holds what the step itself holds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from hantune.config.schema import RunConfig
from hantune.models.loss import supervised_nats
from hantune.models.stand_in import Live
from hantune.paths import RunFolder
from hantune.train.feed import Feed
from hantune.train.optim import trained_parameters
from hantune.train.parallel import make_accelerator
from hantune.train.planning import rehearsal
from hantune.train.planning.rehearsal import Stage, find_traits, rehearse
from hantune.train.planning.target import Target, here
from hantune.train.ready import get_ready
from hantune.train.recompute import choose_recompute
from hantune.train.setup import Material, open_material
from hantune.train.step import add_gradients
from tests.runs import small_config

CPU = torch.device("cpu")
WAYS: dict[str, dict[str, Any]] = {
    "lora": {},
    "bf16": {"train__precision": "bf16"},
    "recomputed": {"train__activation_checkpointing": True},
    "sorted": {"train__batching": "sorted"},
    "8bit": {"model__load": "8bit"},
    "4bit": {"model__load": "4bit", "train__precision": "bf16"},
    "fp8": {"model__load": "fp8", "train__precision": "bf16"},
    "full": {"adapter__kind": "none"},
    "dora": {"adapter__use_dora": True},
    "some layers": {"adapter__layers_to_transform": "last 1"},
}


def opened(config: RunConfig, folder: Path) -> Material:
    return open_material(config, RunFolder(folder))


def looked(config: RunConfig, material: Material, target: Target | None = None) -> tuple[Any, Any]:
    """What is rehearsed, and the micro-batch it is done with."""
    ready = get_ready(config, material)
    feed = Feed(material.train, ready.plan, config.train, pad_id=material.encoder.pad_id)
    folder = Path(config.model.path)
    stage = Stage(
        config=config,
        folder=folder,
        precision=ready.precision,
        recompute=choose_recompute(config.train.activation_checkpointing),
        target=target or here(CPU),
    )
    batch = feed.largest()
    return rehearse(stage, find_traits(config, folder, ready.precision), batch, batch), (ready, batch)


def tensors_of(model: Any) -> Iterator[torch.Tensor]:
    """All that a model holds, with what belongs to weights in few bits."""
    for tensor in (*model.parameters(), *model.buffers()):
        yield tensor.data
        if (state := getattr(tensor, "quant_state", None)) is not None:
            yield from (state.absmax, state.code, state.state2.absmax, state.state2.code, state.offset)
        elif (scales := getattr(tensor, "SCB", getattr(tensor, "scales_O1", None))) is not None:
            yield scales


@pytest.mark.parametrize("way", WAYS)
def test_it_holds_what_the_real_step_holds(
    way: str, tiny_llama_folder: Path, prepared: Path, tmp_path: Path
) -> None:
    config = small_config(tiny_llama_folder, prepared, tmp_path / "no", **WAYS[way])
    found, (ready, batch) = looked(config, opened(config, tmp_path))
    accelerator = make_accelerator(CPU, ready.precision)
    ready.model.train()
    supervised_nats(ready.model, batch)  # what is found out once is found out
    learned = trained_parameters(ready.model).values()
    with Live() as live:
        held = [tensor.view_as(tensor) for tensor in tensors_of(ready.model)]  # so that weights do not count as new
        before = live.now
        add_gradients(ready.model, accelerator, config.train, batch, supervised=1)
    del held
    footprint = found.footprint
    passing = footprint.peak - footprint.standing
    assert passing == pytest.approx(live.peak - before, rel=0.02)
    assert footprint.learned == footprint.gradients == sum(p.numel() * 4 for p in learned)
    assert found.learned == ready.count(learned=True)


@pytest.mark.parametrize("way", ["lora", "recomputed", "4bit", "fp8"])
def test_few_layers_tell_what_many_take(
    way: str, tiny_llama: Any, sp_tokenizer: Any, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_llama(sp_tokenizer, num_hidden_layers=7).save_pretrained(tmp_path / "deep")
    sp_tokenizer.save_pretrained(tmp_path / "deep")
    config = small_config(tmp_path / "deep", prepared, tmp_path / "no", **WAYS[way])
    material = opened(config, tmp_path)
    few, _ = looked(config, material)
    monkeypatch.setattr(rehearsal, "FEW", (50, 50))
    whole, _ = looked(config, material)
    for name, number in whole.footprint.as_dict().items():
        assert few.footprint.as_dict()[name] == pytest.approx(number, rel=0.01), name
    assert few.work.token == pytest.approx(whole.work.token)
    assert few.learned == whole.learned


def test_nothing_is_drawn_and_nothing_is_left(tiny_llama_folder: Path, prepared: Path, tmp_path: Path) -> None:
    config = small_config(tiny_llama_folder, prepared, tmp_path / "no")
    material = opened(config, tmp_path)
    _, (ready, batch) = looked(config, material)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    stage = Stage(
        config=config, folder=tiny_llama_folder, precision=ready.precision, recompute=ready.recompute, target=here(CPU)
    )
    rehearse(stage, find_traits(config, tiny_llama_folder, ready.precision), batch, None, times=2)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("way", ["lora", "full"])
def test_one_pass_tells_what_two_take(
    way: str, tiny_llama_folder: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config(tiny_llama_folder, prepared, tmp_path / "no", **WAYS[way])
    _, (ready, batch) = looked(config, opened(config, tmp_path))
    stage = Stage(
        config=config, folder=tiny_llama_folder, precision=ready.precision, recompute=ready.recompute, target=here(CPU)
    )
    traits = find_traits(config, tiny_llama_folder, ready.precision)
    once, short = (rehearse(stage, traits, batch, None, times=times).footprint for times in (1, 2))

    def twice(model: Any, *arguments: Any, **named: Any) -> None:
        model.zero_grad(set_to_none=True)
        for _ in range(2):
            add_gradients(model, *arguments, **named)

    monkeypatch.setattr(rehearsal, "add_gradients", twice)
    long = rehearse(stage, traits, batch, None, times=2).footprint
    for name, number in long.as_dict().items():
        assert short.as_dict()[name] == pytest.approx(number, rel=0.01), name
    assert short.peak > once.peak, "the gradients of the first are there in the second"


def test_a_card_keeps_no_probabilities(tiny_llama_folder: Path, prepared: Path, tmp_path: Path) -> None:
    config = small_config(tiny_llama_folder, prepared, tmp_path / "no")
    material = opened(config, tmp_path)
    card = Target(device=torch.device("cuda"), room=None, is_here=False)
    here_, there = (looked(config, material, target)[0].footprint for target in (None, card))
    assert there.activations < here_.activations
    assert there.base == here_.base


def test_a_family_that_packs_badly_is_rehearsed_too(tiny_bloom_folder: Path, prepared: Path, tmp_path: Path) -> None:
    config = small_config(tiny_bloom_folder, prepared, tmp_path / "no", adapter__kind="none")
    found, (ready, _) = looked(config, opened(config, tmp_path))
    assert found.footprint.learned == sum(p.numel() * 4 for p in ready.model.parameters())
    assert found.footprint.peak > found.footprint.standing
