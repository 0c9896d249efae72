"""The learning rate's shape and AdamW's groups."""

from __future__ import annotations

import pytest
from torch import nn

from hantune.config.schema import TrainSection
from hantune.train.optim import learning_rate_at, make_optimizer, trained_parameters


def rates(total: int, **settings: object) -> list[float]:
    section = TrainSection(learning_rate=1.0, **settings)  # type: ignore[arg-type]
    return [learning_rate_at(step, total, section) for step in range(total)]


def test_warm_up_rises_to_the_peak_and_cosine_falls() -> None:
    values = rates(100, warmup_share=0.1)
    assert values[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert max(values) == pytest.approx(1.0) == values[10]
    assert values[10:] == sorted(values[10:], reverse=True)
    assert 0 < values[-1] < 0.01


def test_linear_and_constant() -> None:
    assert rates(4, schedule="linear", warmup_share=0.0) == pytest.approx([1.0, 0.75, 0.5, 0.25])
    assert rates(6, schedule="linear", warmup_share=1 / 3) == pytest.approx([0.5, 1.0, 1.0, 0.75, 0.5, 0.25])
    assert rates(4, schedule="constant", warmup_share=0.0) == [1.0] * 4


def test_the_first_step_already_learns() -> None:
    assert rates(1000, warmup_share=0.5)[0] > 0


def test_vectors_are_not_decayed() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    optimizer = make_optimizer(dict(model.named_parameters()), TrainSection(weight_decay=0.1))
    assert [(group["weight_decay"], len(group["params"])) for group in optimizer.param_groups] == [(0.1, 1), (0.0, 3)]


def test_frozen_parameters_are_not_trained() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    assert list(trained_parameters(model)) == ["1.weight", "1.bias"]
