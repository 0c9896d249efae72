"""The demo, with a base that is taught for two steps only."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hantune.cli import main
from hantune.workflow import demo as demo_module
from hantune.workflow import finetune as finetune_module
from hantune.workflow.demo import DemoResult, demo_text
from hantune.workflow.embedded import BASE_SETTINGS, PERSONA_SETTINGS


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object], DemoResult]:
    """Folder, JSON answer, and the result of ``hantune demo``."""
    results: list[DemoResult] = []
    printed: list[str] = []
    out = tmp_path_factory.mktemp("demo") / "demo"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BASE_SETTINGS, "train.max_steps", 2)
        patch.setitem(BASE_SETTINGS, "train.memory_check", False)
        patch.setitem(PERSONA_SETTINGS, "train.max_steps", 2)
        patch.setitem(PERSONA_SETTINGS, "train.device", "cpu")
        patch.setattr(demo_module, "ANSWER_TOKENS", 4)
        patch.setattr(finetune_module, "ANSWER_TOKENS", 4)
        patch.setattr(finetune_module, "EVALUATED_DIALOGUES", 2)
        patch.setattr("hantune.cli.frame.write_out", printed.append)
        text = demo_module.demo_text
        patch.setattr(demo_module, "demo_text", lambda result: results.append(result) or text(result))
        assert main(["demo", "--out", str(out), "--json"]) == 0
    return out, json.loads(printed[0]), results[0]


def test_the_demo_ends_with_a_report_and_a_comparison(shown: tuple[Path, dict[str, object], DemoResult]) -> None:
    out, answer, result = shown
    assert answer["ok"] is True
    assert (out / "persona" / "report.html").is_file()
    assert (out / "persona" / "merged" / "model.safetensors").is_file()
    comparison = json.loads((out / "comparison.json").read_bytes())
    assert comparison == result.comparison
    assert {row["taught"] for row in comparison} == {True, False}
    assert all({"prompt", "expected", "before", "after", "finish_reason"} <= row.keys() for row in comparison)


def test_the_text_is_honest_and_names_the_next_step(shown: tuple[Path, dict[str, object], DemoResult]) -> None:
    _, _, result = shown
    text = demo_text(result)
    right = sum(row["after"] == row["expected"] for row in result.comparison if row["expected"])
    assert f"调之后 {right} 个" in text
    for words in ("没教过", "答不上", f"hantune chat {result.job.training.run.root}", "Llama"):
        assert words in text
    assert result.seconds > 0


def test_without_held_out_dialogues_no_loss_is_shown(shown: tuple[Path, dict[str, object], DemoResult]) -> None:
    from dataclasses import replace

    _, _, result = shown
    blind = replace(result.job.training, loss_before=None, loss_after=None)
    assert "验证损失" not in demo_text(replace(result, job=replace(result.job, training=blind)))
