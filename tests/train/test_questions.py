"""The questions of a run and their plan, from configuration, data, model and device."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from hantune.config.schema import RunConfig
from hantune.errors import ConfigError
from hantune.log import console
from hantune.paths import RunFolder
from hantune.train import questions
from hantune.train.questions import card_flops, questions_of
from hantune.train.ready import Ready, get_ready
from hantune.train.setup import Material, open_material
from tests.runs import small_config


def opened(model: Path, data: Path, folder: Path, **changes: Any) -> tuple[RunConfig, Material]:
    config = small_config(model, data, folder, **changes)
    return config, open_material(config, RunFolder(folder))


def ready_with(model: Path, data: Path, folder: Path, recorded: Any = None, **changes: Any) -> Ready:
    return get_ready(*opened(model, data, folder, **changes), recorded)


def test_settings_reach_the_plan(tiny_llama_folder: Path, prepared: Path, tmp_path: Path) -> None:
    places = (tiny_llama_folder, prepared, tmp_path)
    long = {"train__max_steps": 50, "train__epochs": 10}
    plan = ready_with(*places, **long).plan.probes
    assert (plan.steps, plan.max_tokens) == ((0, 50), 3), "a short run pays for two rounds at most"
    assert ready_with(*places, **long, eval__probe_share=1.0).plan.probes.steps == (
        0, 1, 3, 5, 10, 15, 20, 25, 30, 35, 40, 45, 50,
    )  # fmt: skip
    automatic = ready_with(*places, **long, eval__probe_max_tokens=None, eval__probe_share=1.0).plan.probes
    assert automatic.max_tokens >= 32
    assert automatic.judges_stops
    assert automatic.data_chinese > 0.9
    assert ready_with(*places, eval__probes=["甲", "乙"]).probes[1].prompt == "乙"


def test_a_run_that_goes_on_keeps_its_recorded_plan(
    tiny_llama_folder: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, material = opened(tiny_llama_folder, prepared, tmp_path, eval__probe_share=1.0)
    first = get_ready(config, material)
    recorded = json.loads(json.dumps(first.as_dict(material)))
    monkeypatch.setattr(questions, "plan_probes", lambda *_, **__: pytest.fail("planned anew"))
    assert get_ready(config, material, recorded).plan == first.plan


def test_a_question_longer_than_the_context_is_left_out_with_a_word(
    tiny_llama_folder: Path, prepared: Path, tmp_path: Path
) -> None:
    config, material = opened(tiny_llama_folder, prepared, tmp_path, eval__probes=["好" * 600, "你好"])
    model = get_ready(config, material).model
    console.warnings.clear()
    assert [probe.prompt for probe in questions_of(config, material, model)] == ["你好"]
    assert "1 个比模型的上下文还长" in console.warnings[0]


def test_what_needs_held_out_dialogues_is_refused_without(tiny_llama_folder: Path, tmp_path: Path) -> None:
    from hantune.data.prepare import prepare
    from tests.runs import write_chats

    prepare([str(write_chats(tmp_path / "chats.jsonl", 6))], tmp_path / "data", val_share=0)
    places = (tiny_llama_folder, tmp_path / "data", tmp_path / "run")
    for changes, place in (
        ({"train__early_stop_patience": 2}, "train.early_stop_patience"),
        ({"train__final": "best"}, "train.final"),
    ):
        with pytest.raises(ConfigError) as caught:
            ready_with(*places, **changes)
        assert (caught.value.code, caught.value.place) == ("train.nothing-held-out", place)
    assert ready_with(*places, train__final="best", train__best_by="probe").plan.probes.steps


def test_the_best_by_probe_needs_probes(tiny_llama_folder: Path, prepared: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="eval.probes") as caught:
        opened(tiny_llama_folder, prepared, tmp_path, train__best_by="probe", eval__probes=[])
    assert caught.value.code == "config.conflict"


def test_the_rate_of_a_card_is_half_its_data_sheet(monkeypatch: pytest.MonkeyPatch) -> None:
    class Card:
        major, minor, multi_processor_count = 9, 0, 132

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Card)
    assert card_flops(torch.device("cuda")) == pytest.approx(989e12 * 0.45, rel=0.05)
    assert card_flops(torch.device("cpu")) == 0
