"""Every option of adapter and loss: the fused path learns what PEFT learns, and a resumed run ends bit-identical."""

from __future__ import annotations

import signal
from collections import ChainMap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.optimizers import create_loraplus_optimizer
from safetensors.torch import load_file
from torch import Tensor

from hantune.config.schema import AdapterSection, TrainSection
from hantune.data.batch import IGNORED, collate
from hantune.data.pack import Layout
from hantune.data.types import Example
from hantune.errors import Interrupted
from hantune.infer.engine import open_engine
from hantune.log import read_events
from hantune.models import attention
from hantune.models.adapter import NEW_ROWS, attach_lora
from hantune.models.loss import supervised_nats
from hantune.paths import RunFolder
from hantune.train import checkpoint as checkpoints
from hantune.train.lora_kernels import fuse_lora
from hantune.train.optim import trained_parameters
from hantune.train.parallel import make_accelerator
from hantune.train.pointwise import fuse_attention, fuse_pointwise
from hantune.train.precision import choose_precision
from hantune.train.ready import get_ready
from hantune.train.run import train
from hantune.train.setup import open_material
from hantune.train.step import Stepper
from tests.models.conftest import move
from tests.runs import small_config
from tests.train.test_loop import CPU, Chats, make_loop

STEPS = 20
RATE = 2e-3
"""Larger ones are chaos on this toy: Adam lifts rounding in gradients that are nearly nothing."""
ADAPTERS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "last": {"layers_to_transform": "last 1"},
    "some": {"targets": ("q_proj", "down_proj"), "rank": 3, "alpha": 5.0},
    "rows": {"embeddings": "new-rows"},
    "embeddings": {"embeddings": "all"},
}
LOSSES: dict[str, dict[str, Any]] = {
    "lora-plus": {"lora_plus_ratio": 16.0, "weight_decay": 0.1, "learning_rate": 2e-4},
    "smoothing": {"label_smoothing": 0.1},
    "neftune": {"neftune_alpha": 5.0},
    "average": {"ema_decay": 0.9},
}
MANY = ("rslora", "last", "embeddings", "lora-plus", "smoothing", "neftune", "average")
"""Options whose whole course is followed with the slow tests only: gradients, or all of them together, are quick."""
Make = Callable[..., Any]


def named(name: str, *values: Any) -> Any:
    """A case of a test, slow where it is one of ``MANY``."""
    return pytest.param(*values, id=name, marks=[pytest.mark.slow] if name in MANY else [])


@pytest.fixture
def make(tiny_llama: Callable[..., Any], sp_tokenizer: Any) -> Make:
    """``make(fast=False, **section)``: a tiny Llama, the last rows of whose vocabulary are new, with an adapter.

    ``fast``: everything of it computed as in a run on a CPU.
    """

    def build(fast: bool = False, **section: Any) -> Any:
        model = tiny_llama(sp_tokenizer, vocab_size=300)
        setattr(model.config, NEW_ROWS, [250, 300])
        if fast:
            assert attention.use(model, longest=64)
        model = attach_lora(model, AdapterSection(**({"rank": 4, "embeddings": "frozen"} | section)), seed=1)
        if fast:
            assert fuse_lora(model)
            assert fuse_pointwise(model)
            assert fuse_attention(model)
        return model.train()

    return build


def cuts(steps: int) -> list[list[Example]]:
    """Four of eight examples for each step, so that they are soon known."""
    examples = Chats(8).examples
    return [examples[4 * (step % 2) :][:4] for step in range(steps)]


def pefts_loss(model: Any, examples: list[Example], smoothing: float = 0.0) -> Tensor:
    """The mean over supervised tokens as transformers and PEFT compute it, one padded batch with all logits."""
    width = max(len(example.ids) for example in examples)
    padded = [list(e.ids) + [0] * (width - len(e.ids)) for e in examples]
    labels = [
        [token if learn else IGNORED for token, learn in zip(e.ids, e.mask, strict=True)] for e in examples
    ]
    labels_BT = torch.tensor([row + [IGNORED] * (width - len(row)) for row in labels])
    mask_BT = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in labels])
    logits_BTV = model(torch.tensor(padded), attention_mask=mask_BT, use_cache=False).logits
    return torch.nn.functional.cross_entropy(
        logits_BTV[:, :-1].flatten(0, 1), labels_BT[:, 1:].flatten(), ignore_index=IGNORED, label_smoothing=smoothing
    )


def pefts_losses(model: Any, **settings: Any) -> list[float]:
    """Loss of each of 20 steps in torch's and PEFT's own parts."""
    section = TrainSection(**({"learning_rate": RATE} | settings))
    parameters = trained_parameters(model)
    rate = section.learning_rate
    if section.lora_plus_ratio == 1:
        optimizer: torch.optim.Optimizer = torch.optim.AdamW(parameters.values(), lr=rate, weight_decay=0.0)
    else:
        optimizer = create_loraplus_optimizer(
            model, torch.optim.AdamW, lr=rate, loraplus_lr_ratio=section.lora_plus_ratio,
            loraplus_weight_decay=section.weight_decay, weight_decay=0.0,
        )  # fmt: skip
    losses = []
    for examples in cuts(STEPS):
        loss = pefts_loss(model, examples, section.label_smoothing)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


def our_losses(model: Any, layout: Layout, *, steps: int = STEPS, **settings: Any) -> list[float]:
    """The same by the stepper on fused layers."""
    precision = choose_precision("float32", CPU, is_adapter=True, num_parameters=1)
    section = TrainSection(**({"learning_rate": RATE} | settings))
    stepper = Stepper(model, make_accelerator(CPU, precision), section)
    stepper.set_learning_rate(section.learning_rate)
    batches = ([collate(examples, layout=layout, pad_id=3)] for examples in cuts(steps))
    return [stepper.train(batch, step=step).loss for step, batch in enumerate(batches)]


def assert_same_course(make: Make, layout: Layout, adapter: dict[str, Any], **settings: Any) -> None:
    expected = pefts_losses(make(**adapter), **settings)
    found = our_losses(make(fast=True, **adapter), layout, **settings)
    assert expected[-1] < expected[1], "it learns"  # every second step has the same examples
    assert found == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("adapter", [named(name, its) for name, its in ADAPTERS.items()])
def test_after_twenty_steps_the_losses_are_pefts(adapter: dict[str, Any], make: Make) -> None:
    assert_same_course(make, "packed", adapter)


@pytest.mark.parametrize("option", ["lora-plus", "smoothing"])
def test_with_options_of_training_too(option: str, make: Make) -> None:
    assert_same_course(make, "sorted", {}, **LOSSES[option])


@pytest.mark.parametrize("layout", ["sorted", "packed"])
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_gradients_are_pefts(adapter: str, layout: Layout, make: Make) -> None:
    [examples] = cuts(1)
    plain, fused = (move(make(fast, **ADAPTERS[adapter])) for fast in (False, True))
    pefts_loss(plain, examples).backward()
    nats, count = supervised_nats(fused, collate(examples, layout=layout, pad_id=3))
    (nats / count).backward()
    expected = {name: p.grad for name, p in plain.named_parameters() if p.requires_grad}
    for name, parameter in fused.named_parameters():
        if parameter.requires_grad:
            assert float((parameter.grad - expected[name]).norm() / expected[name].norm()) < 1e-5, name


def test_dropout_is_left_to_peft(make: Make) -> None:
    """Not one bit differs: the fused layer steps aside."""
    found = []
    for is_fused in (False, True):
        model = make(dropout=0.3)
        assert not is_fused or fuse_lora(model)
        torch.manual_seed(0)
        found.append(our_losses(model, "sorted", steps=10))
    assert found[0] == found[1]


def test_the_rate_of_b_stays_in_step_with_the_schedule(make: Make) -> None:
    model = make()
    precision = choose_precision("float32", CPU, is_adapter=True, num_parameters=1)
    stepper = Stepper(model, make_accelerator(CPU, precision), TrainSection(lora_plus_ratio=16.0))
    names = {id(parameter): name for name, parameter in stepper.parameters.items()}
    for rate in (1e-3, 2e-4, 0.0):
        stepper.set_learning_rate(rate)
        rates = {names[id(p)]: group["lr"] for group in stepper.optimizer.param_groups for p in group["params"]}
        assert rates == {name: rate * (16 if "lora_B" in name else 1) for name in stepper.parameters}


# ---- cut and resumed ------------------------------------------------------------------------------------------------


def run_loop(folder: Path, model: Any, *, stop_at: int | None = None, resume: bool = False, **settings: Any) -> Any:
    def evaluate(step: int) -> None:
        if step == stop_at:
            signal.raise_signal(signal.SIGTERM)

    few = {"epochs": 2, "max_steps": 3, "accumulation_steps": 2}
    loop, _ = make_loop(folder, model, evaluate=evaluate, **(few | settings))
    if resume:
        checkpoint = checkpoints.newest_checkpoint(RunFolder(folder))
        assert checkpoint is not None
        loop.restore(checkpoint)
    loop.train()
    return loop


@pytest.mark.parametrize(
    ("adapter", "settings"),
    [
        *(named(name, its, {}) for name, its in ADAPTERS.items()),
        *(named(name, {"dropout": 0.1}, its) for name, its in LOSSES.items()),
        named("together", {"use_dora": True, "dropout": 0.1}, dict(ChainMap(*LOSSES.values()))),
    ],
)
def test_a_resumed_run_is_bit_identical(
    adapter: dict[str, Any], settings: dict[str, Any], make: Make, tmp_path: Path
) -> None:
    settings = {"batching": "packed"} | settings
    whole = run_loop(tmp_path / "whole", make(fast=True, **adapter), **settings)
    with pytest.raises(Interrupted):
        run_loop(tmp_path / "cut", make(fast=True, **adapter), stop_at=1, **settings)
    cut = run_loop(tmp_path / "cut", make(fast=True, **adapter), resume=True, **settings)
    for is_averaged in (False, True):
        for name, parameter in whole.parameters.items():
            assert torch.equal(parameter, cut.parameters[name]), (is_averaged, name)
        whole.stepper.ema.take()
        cut.stepper.ema.take()
    losses = [[e["loss"] for e in read_events(tmp_path / name / "events.jsonl", "step")] for name in ("whole", "cut")]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 3


@pytest.mark.parametrize("settings", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("batching", ["sorted", "packed"])
def test_a_step_of_eight_is_the_same_however_it_is_cut(
    settings: dict[str, Any], batching: str, make: Make, tmp_path: Path
) -> None:
    found = []
    for number, cut in enumerate(({"batch_size": 8}, {"batch_size": 1, "accumulation_steps": 8})):
        few = {"max_steps": 2, "learning_rate": 1e-3, "accumulation_steps": 1, "batching": batching}
        loop = run_loop(tmp_path / str(number), make(), **(few | settings | cut))
        loop.stepper.ema.take()
        losses = [event["loss"] for event in read_events(tmp_path / str(number) / "events.jsonl", "step")]
        found.append((losses, dict(loop.parameters)))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    for name, weight in found[0][1].items():
        torch.testing.assert_close(weight, found[1][1][name], rtol=1e-4, atol=5e-5)  # Adam lifts rounding


@pytest.mark.parametrize("settings", LOSSES.values(), ids=LOSSES)
def test_each_option_reaches_what_it_names(settings: dict[str, Any], make: Make, tmp_path: Path) -> None:
    plain = run_loop(tmp_path / "plain", make())
    found = run_loop(tmp_path / "found", make(), **settings)
    found.stepper.ema.take()
    assert any(not torch.equal(p, found.parameters[name]) for name, p in plain.parameters.items())


def test_a_run_trains_the_layers_it_was_told_and_keeps_no_more(
    tiny_llama_folder: Path, prepared: Path, tmp_path: Path
) -> None:
    config = small_config(
        tiny_llama_folder, prepared, tmp_path / "run", adapter__layers_to_transform="last 1", adapter__use_dora=True,
        train__activation_checkpointing=True,
    )  # fmt: skip
    ready = get_ready(config, open_material(config, RunFolder(tmp_path / "scratch")))
    embeddings: Any = ready.model.get_input_embeddings()  # type: ignore[operator]
    assert not embeddings(torch.tensor([[5]])).requires_grad, "the backward pass would not stop"
    result = train(config)
    names = load_file(result.output / "adapter_model.safetensors")
    assert {name.split(".")[4] for name in names} == {"1"}
    assert any("magnitude" in name for name in names)
    assert open_engine(result.run.root, device="cpu").model.peft_config["default"].layers_to_transform == [1]
