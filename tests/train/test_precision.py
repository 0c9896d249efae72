"""Precision is chosen by a rule that gives its reason."""

from __future__ import annotations

import pytest
import torch

from hantune.errors import ConfigError, MachineError
from hantune.train import precision
from hantune.train.precision import choose_device, choose_precision

CPU = torch.device("cpu")


def test_small_models_and_plain_cpus_use_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: True)
    assert choose_precision("auto", CPU, is_adapter=True, num_parameters=10**6).name == "float32"
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: False)
    assert choose_precision("auto", CPU, is_adapter=True, num_parameters=10**9).name == "float32"


def test_an_adapter_on_a_bf16_cpu_keeps_only_the_base_in_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: True)
    chosen = choose_precision("auto", CPU, is_adapter=True, num_parameters=10**9)
    assert (chosen.weights, chosen.compute) == (torch.bfloat16, torch.bfloat16)
    assert "bf16" in chosen.reason
    full = choose_precision("bf16", CPU, is_adapter=False, num_parameters=10**9)
    assert (full.weights, full.compute) == (torch.float32, torch.bfloat16)


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
