"""Averages of weights: the formula, the way there and back, and where they are used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hantune.data.batch import evaluation_batches
from hantune.data.prepared import open_prepared
from hantune.data.store import open_tokens
from hantune.evaluate.perplexity import held_out
from hantune.infer.engine import open_engine
from hantune.log import read_events
from hantune.train.ema import Ema
from hantune.train.run import train
from tests.runs import small_config
from tests.train.test_loop import make_loop


def small(decay: float) -> tuple[torch.nn.Linear, torch.optim.AdamW, Ema]:
    torch.manual_seed(0)
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1)
    return layer, optimizer, Ema(optimizer, dict(layer.named_parameters()), decay)


def learn(layer: torch.nn.Linear, optimizer: torch.optim.Optimizer) -> None:
    layer(torch.ones(1, 3)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_the_average_is_that_of_the_formula() -> None:
    layer, optimizer, ema = small(0.5)
    expected = None
    for step in range(12):
        learn(layer, optimizer)
        ema.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        weight = layer.weight.detach().double().clone()
        expected = weight if expected is None else decay * expected + (1 - decay) * weight
    before = layer.weight.detach().clone()
    with ema.taken():
        torch.testing.assert_close(layer.weight.detach().double(), expected, rtol=1e-6, atol=1e-7)
        assert not torch.equal(layer.weight, before)
    assert torch.equal(layer.weight, before)
    ema.take()
    torch.testing.assert_close(layer.weight.detach().double(), expected, rtol=1e-6, atol=1e-7)


def test_without_decay_there_is_nothing() -> None:
    layer, optimizer, ema = small(0.0)
    learn(layer, optimizer)
    before = layer.weight.detach().clone()
    ema.update(0)
    with ema.taken():
        assert torch.equal(layer.weight, before)
    assert all("average" not in state for state in optimizer.state.values())


def test_weights_come_back_when_the_work_fails() -> None:
    layer, optimizer, ema = small(0.9)
    for step in range(3):
        learn(layer, optimizer)
        ema.update(step)
    before = layer.weight.detach().clone()
    with pytest.raises(ZeroDivisionError), ema.taken():
        raise ZeroDivisionError
    assert torch.equal(layer.weight, before)


def test_a_first_step_that_was_dropped_leaves_the_optimiser_its_beginning() -> None:
    layer, optimizer, ema = small(0.9)
    ema.update(0)
    assert not optimizer.state
    learn(layer, optimizer)
    ema.update(1)
    with ema.taken():
        pass
    assert {"exp_avg", "exp_avg_sq", "step", "average"} == set(optimizer.state[layer.weight])


def test_evaluation_sees_the_averages_and_training_goes_on_from_the_weights(
    tmp_path: Path, tiny_llama: Callable[..., Any], sp_tokenizer: Any
) -> None:
    finals, seen = [], []
    for decay in (0.0, 0.9):
        model = tiny_llama(sp_tokenizer)
        loop, _ = make_loop(
            tmp_path / str(decay), model, max_steps=3, ema_decay=decay,
            evaluate=lambda step, model=model: seen.append(model.lm_head.weight.detach().clone()),
        )  # fmt: skip
        loop.train()
        finals.append(model.lm_head.weight.detach().clone())
    assert torch.equal(*finals)
    plain, averaged = seen[: len(seen) // 2], seen[len(seen) // 2 :]
    assert torch.equal(plain[0], averaged[0]), "before the first step there is nothing to average"
    assert not torch.equal(plain[-1], averaged[-1])
    assert torch.equal(plain[-1], finals[0])


@pytest.mark.parametrize("final", ["last", "best"])
def test_the_adapter_of_a_run_is_what_was_evaluated(
    final: str, tiny_llama_folder: Path, prepared: Path, tmp_path: Path
) -> None:
    config = small_config(
        tiny_llama_folder, prepared, tmp_path / "run",
        train__max_steps=6, eval__every_steps=1, train__ema_decay=0.9, train__final=final, train__learning_rate=0.05,
    )  # fmt: skip
    result = train(config)
    losses = {event["step"]: event["loss"] for event in read_events(result.run.events, "eval")}
    wanted = losses[6] if final == "last" else min(loss for step, loss in losses.items() if step)
    assert final == "last" or result.best_step != 6
    engine = open_engine(result.run.root, device="cpu")
    val = open_tokens(
        open_prepared(prepared), "val", engine.encoder, engine.template, max_tokens=192, max_turns=None, seed=42,
        max_samples=4,
    )  # fmt: skip
    found = held_out(engine.model, evaluation_batches(val, pad_id=engine.encoder.pad_id))
    assert found.loss == pytest.approx(wanted, rel=1e-6)
    newest = load_file(result.run.checkpoints / "step-000006" / "weights.safetensors")
    written = load_file(result.output / "adapter_model.safetensors")
    same = [torch.equal(its, newest[name.replace(".weight", ".default.weight")]) for name, its in written.items()]
    assert not all(same), "a checkpoint holds the weights themselves"
