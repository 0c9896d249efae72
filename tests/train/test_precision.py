"""Precision is chosen by a rule that gives its reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hantune.errors import ConfigError, MachineError
from hantune.paths import RunFolder
from hantune.train import precision
from hantune.train import ready as ready_module
from hantune.train.precision import Units, automatic, bears_fp16, choose_device, choose_precision, precision_of
from hantune.train.ready import get_ready
from hantune.train.setup import open_material
from tests.runs import small_config

CPU = torch.device("cpu")


def test_small_models_and_plain_cpus_use_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: True)
    smallest = precision.MIN_BF16_PARAMETERS
    cases = [(smallest, True, "bf16"), (smallest - 1, True, "float32"), (10**9, False, "float32")]
    for number, is_adapter, name in cases:
        assert choose_precision("auto", CPU, is_adapter=is_adapter, num_parameters=number).name == name
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: False)
    assert choose_precision("auto", CPU, is_adapter=True, num_parameters=10**9).name == "float32"


def test_an_adapter_on_a_bf16_cpu_keeps_only_the_base_in_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: True)
    chosen = choose_precision("auto", CPU, is_adapter=True, num_parameters=10**9)
    assert (chosen.weights, chosen.compute) == (torch.bfloat16, torch.bfloat16)
    assert "bf16" in chosen.reason
    full = choose_precision("bf16", CPU, is_adapter=False, num_parameters=10**9)
    assert (full.weights, full.compute) == (torch.float32, torch.bfloat16)


V100, T4, P40, A100, H200 = (7, 0), (7, 5), (6, 1), (8, 0), (9, 0)


@pytest.mark.parametrize(
    ("card", "name"), [(A100, "bf16"), (H200, "bf16"), (V100, "fp16"), (T4, "fp16"), (P40, "float32")]
)
@pytest.mark.parametrize("is_adapter", [True, False])
def test_cards_compute_in_what_they_are_built_for(card: tuple[int, int], name: str, is_adapter: bool) -> None:
    found, reason = automatic(Units(card, has_bf16=card >= (8, 0)), is_adapter, 10**9)
    assert found == name
    assert f"{card[0]}.{card[1]}" in reason
    reason.encode("gbk")
    chosen = precision_of(found, reason, is_adapter=is_adapter)
    assert chosen.needs_autocast is (name == "fp16" or (name == "bf16" and not is_adapter))
    assert chosen.weights == (chosen.compute if is_adapter else torch.float32), "what is learned is float32"


def overflowing(model: Any) -> Any:
    """A model whose activations pass 65,504, as some that were made in bf16 do."""
    model.model.layers[0].mlp.down_proj.weight.data *= 1e7
    return model


def test_a_model_that_overflows_in_fp16_is_found(tiny_llama: Callable[..., Any], sp_tokenizer: Any) -> None:
    ids = torch.tensor([[1, 5, 9, 300]])
    assert bears_fp16(tiny_llama(sp_tokenizer).half(), ids)
    assert not bears_fp16(overflowing(tiny_llama(sp_tokenizer)).half(), ids)
    assert not bears_fp16(overflowing(tiny_llama(sp_tokenizer)), ids), "float32 weights under autocast"


def test_a_run_falls_back_to_float32_and_says_why(
    tiny_llama: Callable[..., Any], sp_tokenizer: Any, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "automatic", lambda *machine: ("fp16", "试验"))
    found = {}
    for name, change in (("well", lambda model: model), ("ill", overflowing)):
        change(tiny_llama(sp_tokenizer)).save_pretrained(tmp_path / name)
        sp_tokenizer.save_pretrained(tmp_path / name)
        config = small_config(tmp_path / name, prepared, tmp_path / "no", train__precision="auto")
        material = open_material(config, RunFolder(tmp_path / f"scratch-{name}"))
        found[name] = get_ready(config, material).as_dict(material)["precision"]
    assert found["well"] == {"name": "fp16", "weights": "float16", "reason": "试验"}
    assert (found["ill"]["name"], found["ill"]["weights"]) == ("float32", "float32")
    assert found["ill"]["reason"] == ready_module.OVERFLOWS
    json.dumps(found, ensure_ascii=False).encode("gbk")


def test_fp16_on_a_cpu_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        choose_precision("fp16", CPU, is_adapter=True, num_parameters=1)
    assert caught.value.code == "train.fp16-on-cpu"


@pytest.mark.skipif(torch.cuda.is_available(), reason="a card is there")
def test_asking_for_a_card_that_is_not_there() -> None:
    assert choose_device("auto") == CPU
    with pytest.raises(MachineError) as caught:
        choose_device("cuda")
    assert caught.value.code == "machine.no-cuda"
