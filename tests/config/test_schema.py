"""The schema itself: strict, frozen, finite, and valid by default."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from hantune.config.schema import AdapterSection, EvalSection, RunConfig, TrainSection


def test_values_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        RunConfig().train.seed = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    "values",
    [{"batch_size": "8"}, {"batch_size": True}, {"batch_size": 8.0}, {"epochs": float("inf")}, {"epochs": float("nan")},
     {"seed": 2**32}, {"learning_rate": 2.0}, {"keep_checkpoints": 1}, {"unknown": 1}],
)  # fmt: skip
def test_nothing_is_guessed(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TrainSection(**values)


def test_lists_become_tuples() -> None:
    values: dict[str, Any] = {"targets": ["q_proj"]}
    assert AdapterSection(**values).targets == ("q_proj",)
    assert EvalSection(probes=()).probes == ()


def test_fp16_needs_a_card() -> None:
    with pytest.raises(ValidationError, match="fp16"):
        RunConfig(train=TrainSection(precision="fp16", device="cpu"))
    assert RunConfig(train=TrainSection(precision="fp16")).train.device == "auto"


@pytest.mark.parametrize(
    ("values", "told"),
    [({"train": {"precision": "fp16"}}, "fp16"), ({"adapter": {"use_dora": True}}, "use_dora"),
     ({"adapter": {"kind": "none"}}, "kind=none")],
)  # fmt: skip
def test_what_a_base_in_fp8_cannot_have_beside_it(values: dict[str, Any], told: str) -> None:
    RunConfig.model_validate({"model": {"load": "fp8"}})
    with pytest.raises(ValidationError, match=rf"model.load=fp8.*{told}"):
        RunConfig.model_validate({"model": {"load": "fp8"}} | values)


@pytest.mark.parametrize(
    "values",
    [{"adapter": {"use_dora": True}}, {"adapter": {"layers_to_transform": "last 2"}},
     {"adapter": {"embeddings": "all"}}, {"train": {"lora_plus_ratio": 16}}],
)  # fmt: skip
def test_what_only_lora_has_is_refused_without_it(values: dict[str, dict[str, Any]]) -> None:
    RunConfig.model_validate(values)
    [(section, [name])] = values.items()
    with pytest.raises(ValidationError, match=f"adapter.kind=none.*{section}.{name}"):
        RunConfig.model_validate(values | {"adapter": values.get("adapter", {}) | {"kind": "none"}})


@pytest.mark.parametrize("layers", ["last 0", "last", "8", 8, [], [-1], ["1"], "first 2"])
def test_layers_are_the_last_ones_or_numbers(layers: Any) -> None:
    with pytest.raises(ValidationError):
        AdapterSection(layers_to_transform=layers)


def test_the_json_schema_carries_the_sentences() -> None:
    schema = RunConfig.model_json_schema()["$defs"]["TrainSection"]["properties"]
    assert all(field["description"] for field in schema.values())
