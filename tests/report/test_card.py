"""The model card: true, valid, and free of this machine's paths and of the data's words."""

from __future__ import annotations

import json

from ruamel.yaml import YAML

from hantune.paths import RunFolder
from hantune.report.card import model_card, write_cards


def front_matter(card: str) -> dict[str, object]:
    value = YAML(typ="safe").load(card.split("---\n")[1])
    assert isinstance(value, dict)
    return value


def test_the_card_tells_base_data_template_metrics_use_and_limits(run: RunFolder) -> None:
    card = model_card(run)
    assert front_matter(card) == {
        "language": "zh",
        "pipeline_tag": "text-generation",
        "tags": ["hantune", "chat", "chinese"],
        "library_name": "peft",
        "base_model": "HanTune/demo-base",
        "base_model_relation": "adapter",
    }
    loss = "| 验证损失 | 5.54 | 1.86 |"
    for wanted in ("读到 1,946", "| 提示模板 | llama2 |", loss, "hantune chat", "## 局限", "4 比特"):
        assert wanted in card


def test_the_kind_of_adapter_is_told(run: RunFolder) -> None:
    run.config.write_text("adapter: {use_dora: true, rank: 4, layers_to_transform: last 2}\n", encoding="utf-8")
    card = model_card(run)
    assert "| 方式 | DoRA, 秩 4, 只在这些层: last 2 |" in card
    assert "DoRA 适配器 (秩 4)" in card


def test_the_card_of_a_merged_model_speaks_of_no_adapter(run: RunFolder) -> None:
    card = model_card(run, merged=True)
    assert "library_name" not in card
    assert "model merge" not in card
    assert front_matter(card)["base_model_relation"] == "finetune"


def test_a_local_base_is_named_and_its_path_is_not_told(run: RunFolder) -> None:
    run.config.write_text("model: {path: /home/zhang/models/m110}\n", encoding="utf-8")
    card = model_card(run)
    assert "base_model" not in front_matter(card)
    assert "m110" in card
    assert "zhang" not in card


def test_no_words_of_the_data_and_no_file_names_are_told(run: RunFolder) -> None:
    with run.events.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"event": "warning", "message": "看 /home/zhang/x"}) + "\n")
    card = model_card(run)
    for secret in ("西红柿", "toyhom", "lccc_toy_split", "zhang"):
        assert secret not in card


def test_markup_in_values_does_not_break_the_tables(run: RunFolder) -> None:
    run.config.write_text("template: {name: 'a|b <i>'}\nmodel: {path: 'x*y'}\n", encoding="utf-8")
    run.plan.unlink()
    card = model_card(run)
    assert "| 提示模板 | a\\|b \\<i\\> |" in card
    assert "x\\*y" in card


def test_a_run_with_nothing_but_a_configuration_has_a_card(run: RunFolder) -> None:
    for path in (run.events, run.plan, run.evaluation, run.prepared / "manifest.json"):
        path.unlink()
    card = model_card(run)
    assert "## 成绩" not in card
    assert "## 数据" not in card
    assert "## 局限" in card


def test_the_same_run_gives_the_same_card(run: RunFolder) -> None:
    assert model_card(run) == model_card(run)


def test_cards_lie_beside_what_the_run_has(run: RunFolder) -> None:
    run.merged.mkdir(exist_ok=True)
    run.adapter.mkdir(exist_ok=True)
    assert write_cards(run) == [run.adapter / "README.md", run.merged / "README.md"]
    assert "library_name: peft" in (run.adapter / "README.md").read_text(encoding="utf-8")
    assert "library_name" not in (run.merged / "README.md").read_text(encoding="utf-8")
