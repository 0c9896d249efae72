"""bitsandbytes' optimisers: the same update in runs, less memory, exact resume."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hantune.config.schema import TrainSection
from hantune.errors import MachineError
from hantune.log import read_events
from hantune.train import checkpoint as checkpoints
from hantune.train import lean
from hantune.train.lean import SMALLEST, make_lean
from hantune.train.optim import make_optimizer, optimizer_name, state_bytes
from hantune.train.run import resume, train
from tests.runs import folder_bytes, small_config, story

pytest.importorskip("bitsandbytes")


def parameters(*sizes: int) -> list[nn.Parameter]:
    draw = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(size, 8, generator=draw)) for size in sizes]


def named(learned: list[nn.Parameter]) -> dict[str, nn.Parameter]:
    return {str(number): parameter for number, parameter in enumerate(learned)}


def steps(optimizer: torch.optim.Optimizer, learned: list[nn.Parameter], count: int, seed: int = 1) -> None:
    draw = torch.Generator().manual_seed(seed)
    for _ in range(count):
        for parameter in learned:
            parameter.grad = torch.randn(parameter.shape, generator=draw)
        optimizer.step()


def test_runs_of_weights_are_updated_like_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    from bitsandbytes.optim import AdamW8bit

    monkeypatch.setattr(lean, "RUN", 2 * lean.BLOCK)
    mine, theirs = parameters(900, 640, 5), parameters(900, 640, 5)
    first = make_lean("adamw8bit", [{"params": mine, "weight_decay": 0.1}], lr=1e-2)
    second = AdamW8bit(theirs, lr=1e-2, weight_decay=0.1)
    steps(first, mine, 3)
    steps(second, theirs, 3)
    for one, other in zip(mine, theirs, strict=True):
        assert torch.equal(one, other)
        assert first.state[one].keys() == second.state[other].keys()
        for key, value in first.state[one].items():
            assert torch.equal(value, second.state[other][key]) if isinstance(value, Tensor) else value == 3


def test_8_bits_take_a_quarter_of_the_states() -> None:
    def held(name: str, rows: int = 4096) -> int:
        learned = parameters(rows)
        optimizer = make_optimizer(named(learned), TrainSection(optimizer=name))  # type: ignore[arg-type]
        steps(optimizer, learned, 1)
        slots = optimizer.state[learned[0]]
        return sum(value.nbytes for key, value in slots.items() if isinstance(value, Tensor) and "qmap" not in key)

    assert held("adamw8bit") < 0.26 * held("adamw")
    for name in ("adamw", "adamw8bit"):
        section = TrainSection(optimizer=name)  # type: ignore[arg-type]
        for rows in (4096, SMALLEST // 8 - 1):
            assert state_bytes(parameters(rows), section) == pytest.approx(held(name, rows), rel=0.02)


@pytest.mark.parametrize(
    ("asked", "on_card", "on_cpu"),
    [
        ("adamw", "adamw", "adamw"),
        ("adamw8bit", "adamw8bit", "adamw8bit"),
        ("paged_adamw", "paged_adamw", "adamw"),
        ("paged_adamw8bit", "paged_adamw8bit", "adamw8bit"),
    ],
)
def test_pages_are_for_cards(asked: Any, on_card: str, on_cpu: str) -> None:
    section = TrainSection(optimizer=asked)
    assert optimizer_name(section, torch.device("cuda")) == on_card
    assert optimizer_name(section, torch.device("cpu")) == on_cpu
    kind = type(make_optimizer(named(parameters(4)), section)).__name__
    assert kind == ("AdamW" if on_cpu == "adamw" else "AdamW8bit")


@pytest.mark.parametrize("change", [{"model__load": "4bit"}, {"train__optimizer": "adamw8bit"}])
def test_a_missing_library_is_said_before_any_work(
    change: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(MachineError) as caught:
        train(small_config(tmp_path / "no model", tmp_path / "no data", tmp_path / "run", **change))
    assert caught.value.code == "machine.no-bitsandbytes"
    assert not (tmp_path / "run").exists()


def test_without_the_library_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(MachineError) as caught:
        make_optimizer(named(parameters(4)), TrainSection(optimizer="adamw8bit"))
    assert caught.value.code == "machine.no-bitsandbytes"


def test_the_states_come_back_bit_for_bit(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    learned, fresh = parameters(900, 5), parameters(900, 5)
    section = TrainSection(optimizer="adamw8bit", learning_rate=1e-2)
    optimizer = make_optimizer(named(learned), section)
    steps(optimizer, learned, 3)
    saved, values = checkpoints.optimizer_state(optimizer, {id(p): str(i) for i, p in enumerate(learned)})
    save_file(saved, tmp_path / "o.safetensors")
    again = make_optimizer(named(fresh), section)
    with torch.no_grad():
        for one, other in zip(learned, fresh, strict=True):
            other.copy_(one)
    found = load_file(tmp_path / "o.safetensors")
    checkpoints.restore_optimizer(again, named(fresh), found, values)
    assert again.state[fresh[0]]["step"] == 3
    assert isinstance(again.state[fresh[0]]["step"], int)
    for which, group in ((optimizer, learned), (again, fresh)):
        steps(which, group, 2, seed=5)
    assert all(torch.equal(one, other) for one, other in zip(learned, fresh, strict=True))


def test_paged_states_are_made_as_pages_and_filled() -> None:
    class Page(Tensor):
        is_paged = True

    class Paged(torch.optim.SGD):
        is_paged = True

        def init_state(self, group: Any, parameter: nn.Parameter, number: int, place: int) -> None:
            self.state[parameter] = {"step": 0, "state1": torch.zeros_like(parameter).as_subclass(Page)}

    used, unused = parameters(2, 2)
    optimizer = Paged([used, unused], lr=1.0)
    checkpoints.restore_optimizer(
        optimizer, {"a": used, "b": unused}, {"a|state1": torch.ones(2, 8)}, {"a|step": 7}
    )
    assert type(optimizer.state[used]["state1"]) is Page
    assert bool((optimizer.state[used]["state1"] == 1).all())
    assert optimizer.state[used]["step"] == 7
    assert unused not in optimizer.state


def test_a_full_run_in_8_bits_learns_alike_and_resumes_exactly(
    tiny_llama_folder: Path, prepared: Path, tmp_path: Path
) -> None:
    settings = {
        "adapter__kind": "none", "train__max_steps": 6, "train__save_every_steps": 2, "train__learning_rate": 1e-3,
    }  # fmt: skip
    runs = {
        name: train(small_config(tiny_llama_folder, prepared, tmp_path / name, train__optimizer=name, **settings))
        for name in ("adamw", "paged_adamw8bit")
    }
    losses = {name: result.loss_after for name, result in runs.items()}
    assert losses["paged_adamw8bit"] == pytest.approx(losses["adamw"], rel=0.02)
    run = runs["paged_adamw8bit"].run
    whole, model = story(run), folder_bytes(run.model)
    saved = checkpoints.newest_checkpoint(run)
    assert saved is not None
    assert any(tensor.dtype == torch.uint8 for tensor in saved.tensors("optimizer").values())
    shutil.rmtree(run.model)
    for folder in sorted(run.checkpoints.glob("step-*"))[1:]:
        shutil.rmtree(folder)
    resume(run.root)
    assert story(run) == whole
    assert folder_bytes(run.model) == model
    assert read_events(run.events, "resume")
