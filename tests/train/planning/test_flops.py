"""How much a run computes, counted without running it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from hantune.config.schema import RunConfig
from hantune.paths import RunFolder
from hantune.train.feed import Feed
from hantune.train.floor import work_of
from hantune.train.plan import make_plan
from hantune.train.planning import flops
from hantune.train.planning.flops import flop_of, volume_of, work_or_guess
from hantune.train.setup import open_material
from tests.runs import small_config


@pytest.mark.parametrize("packs", [True, False])
def test_it_is_the_sum_over_the_micro_batches(
    packs: bool, tiny_llama_folder: Path, tiny_llama: Callable[..., Any], sp_tokenizer: Any, prepared: Path,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    config: RunConfig = small_config(tiny_llama_folder, prepared, tmp_path / "no", train__max_steps=6)
    material = open_material(config, RunFolder(tmp_path))
    plan = make_plan(
        config, num_samples=len(material.train), num_val=len(material.val), can_pack=True, packs_fast=packs
    )
    feed = Feed(material.train, plan, config.train, pad_id=0)
    work = work_of(tiny_llama(sp_tokenizer))
    assert work is not None
    found = volume_of(feed, plan, material, work)
    batches = [batch for step in range(plan.total_steps) for batch in feed.micro_batches(step)]
    assert found.batches == len(batches)
    assert found.tokens == sum(batch.num_tokens for batch in batches)
    assert found.flop == pytest.approx(sum(flop_of(batch, work) for batch in batches), rel=0.02)
    assert found.evaluation_flop > 0
    assert "sizes" not in found.as_dict()
    monkeypatch.setattr(flops, "MOST_STEPS", 3)
    sampled = volume_of(feed, plan, material, work)
    assert sampled.flop == pytest.approx(found.flop, rel=0.5)


def test_a_model_of_unknown_matrices_is_guessed() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.config = type("Config", (), {"get_text_config": lambda self: self, "num_hidden_layers": 1})()
            self.own = nn.Parameter(nn.init.zeros_(nn.Linear(10, 10).weight))

        def get_output_embeddings(self) -> None:
            return None

    assert work_or_guess(Odd()).token == 600
