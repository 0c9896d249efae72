"""Activations that are computed again: when, and that nothing but memory and time changes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hantune.config.schema import AdapterSection
from hantune.data.batch import collate
from hantune.data.types import Example
from hantune.models import attention
from hantune.models.adapter import attach_lora
from hantune.models.call import bare_model, checkpoint_activations
from hantune.models.load import load_model
from hantune.models.loss import is_head_last, supervised_nats
from hantune.paths import RunFolder
from hantune.train.frozen import compute_densely
from hantune.train.lora_kernels import fuse_lora
from hantune.train.planning.forecast import forecast
from hantune.train.pointwise import fuse_attention, fuse_pointwise
from hantune.train.recompute import choose_recompute
from hantune.train.run import resume, train
from tests.runs import small_config, story, unfinished

GB = 2**30


@pytest.mark.parametrize(
    ("asked", "predicted", "available", "is_on"),
    [
        (True, 1, 100 * GB, True),
        (False, 100 * GB, 1, False),
        ("auto", None, None, False),
        ("auto", 30 * GB, None, False),
        ("auto", 20 * GB, 24 * GB, False),
        ("auto", 23 * GB, 24 * GB, True),
        ("auto", 30 * GB, 24 * GB, True),
    ],
)
def test_auto_recomputes_only_what_would_not_fit(
    asked: Any, predicted: int | None, available: int | None, is_on: bool
) -> None:
    chosen = choose_recompute(asked, predicted=predicted, available=available)
    assert chosen.is_on is is_on
    assert chosen.reason
    chosen.reason.encode("gbk")
    if asked == "auto" and predicted and available:
        assert f"{predicted / GB:.1f} GB" in chosen.reason


EXAMPLES = [
    Example(ids=tuple(range(5, 5 + length)), mask=(0,) * (length // 2) + (1,) * (length - length // 2))
    for length in (9, 17, 12)
]


def outcome(model: Any, layout: str, *, is_on: bool) -> tuple[float, dict[str, torch.Tensor], int]:
    """Loss, gradients, and how often a layer was computed."""
    if is_on:
        checkpoint_activations(bare_model(model))
    model.train()
    is_head_last(bare_model(model))  # found by two passes of its own
    calls: list[int] = []
    bare_model(model).model.layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    torch.manual_seed(0)
    nats, count = supervised_nats(model, collate(EXAMPLES, layout=layout, pad_id=3))  # type: ignore[arg-type]
    (nats / count).backward()  # type: ignore[no-untyped-call]
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return float(nats.detach()), grads, len(calls)


@pytest.mark.parametrize("layout", ["sorted", "packed"])
@pytest.mark.parametrize("kind", ["full", "lora", "dropout", "fast", "4bit"])
def test_checkpointed_is_not_checkpointed_bit_for_bit(
    layout: str, kind: str, tiny_llama: Callable[..., Any], sp_tokenizer: Any, tiny_llama_folder: Path
) -> None:
    def make() -> Any:
        if kind == "4bit":
            pytest.importorskip("bitsandbytes")
            model = load_model(tiny_llama_folder, dtype=torch.float32, load="4bit")
            assert compute_densely(model) == 14
        else:
            model = tiny_llama(sp_tokenizer, attention_dropout=0.1 if kind == "full" else 0.0)
        if kind == "full":
            return model
        assert kind == "dropout" or attention.use(model, longest=32)
        section = AdapterSection(rank=4, dropout=0.2 if kind == "dropout" else 0.0)
        tuned = attach_lora(model, section, seed=0)
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(len(name)))
        assert fuse_lora(tuned) == 14
        if kind in ("fast", "4bit"):
            assert fuse_pointwise(tuned) == 7
            assert fuse_attention(tuned) == 2
        return tuned

    plain, again = outcome(make(), layout, is_on=False), outcome(make(), layout, is_on=True)
    assert (plain[2], again[2]) == (1, 2)
    assert plain[0] == again[0]
    assert plain[1].keys() == again[1].keys()
    assert all(torch.equal(gradient, again[1][name]) for name, gradient in plain[1].items())


def test_a_run_that_recomputes_is_the_same_run(tiny_llama_folder: Path, prepared: Path, tmp_path: Path) -> None:
    runs = [
        train(
            small_config(
                tiny_llama_folder, prepared, tmp_path / str(value), train__activation_checkpointing=value,
                train__prepack=False,
            )
        ).run
        for value in (False, True)
    ]  # fmt: skip
    assert story(runs[0]) == story(runs[1])


def test_a_run_that_goes_on_may_begin_to_recompute_and_stays_so(
    tiny_llama_folder: Path, prepared: Path, tmp_path: Path
) -> None:
    def is_recomputing(run: RunFolder) -> Any:
        return json.loads(run.plan.read_bytes())["recompute"]["is_on"]

    run = train(small_config(tiny_llama_folder, prepared, tmp_path / "run")).run
    before = story(run)
    assert not is_recomputing(run)
    for changes in (["train.activation_checkpointing=true"], []):
        resume(unfinished(run).root, changes)
        assert is_recomputing(run)
        assert story(run) == before


def test_the_plan_says_what_was_chosen(tiny_llama_folder: Path, prepared: Path, tmp_path: Path) -> None:
    plans = {
        value: forecast(
            small_config(tiny_llama_folder, prepared, tmp_path / "no", train__activation_checkpointing=value),
            tmp_path / "scratch",
        ).as_dict()["recompute"]
        for value in (True, "auto")
    }
    assert plans[True] == {"is_on": True, "reason": "配置里指定的"}
    assert plans["auto"]["is_on"] is False
