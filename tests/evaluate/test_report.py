"""One model on one prepared folder."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from hantune.data.prepare import prepare
from hantune.data.prepared import Prepared, open_prepared
from hantune.errors import ConfigError
from hantune.evaluate.report import ANSWERS, LOSSES, evaluate_prepared, held_out_loss, require_metrics
from hantune.infer.engine import Engine, open_engine
from hantune.log import console


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("data")
    lines = [{"question": f"第{i}个问题是什么？", "answer": f"是{i}。"} for i in range(40)]
    (folder / "a.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    prepare([str(folder / "a.jsonl")], folder / "out", val_share=0.3, seed=1)
    return open_prepared(folder / "out")


@pytest.fixture(scope="module")
def engine(tiny_llama_folder: Path) -> Engine:
    return open_engine(tiny_llama_folder, device="cpu")


def test_loss_and_answers_of_the_validation_part(engine: Engine, prepared: Prepared) -> None:
    result = evaluate_prepared(engine, prepared, max_new_tokens=4)
    assert result["part"] == "val"
    assert result["held_out"]["loss"] == pytest.approx(math.log(engine.encoder.vocab_size), rel=0.1)
    assert result["held_out"].keys() >= set(LOSSES)
    assert set(result["metrics"]) == {*ANSWERS, "count"}
    assert result["metrics"]["count"] == len(result["answers"]) == prepared.count("val")
    again = evaluate_prepared(engine, prepared, max_new_tokens=4, batch_size=3)
    assert (again["answers"], again["metrics"]) == (result["answers"], result["metrics"])
    assert again["held_out"]["loss"] == pytest.approx(result["held_out"]["loss"], rel=1e-5)


def test_characters_are_those_of_the_learned_text(engine: Engine, prepared: Prepared) -> None:
    measured = held_out_loss(engine, prepared, "val", max_samples=None, max_tokens=512)
    texts = [conversation.messages[-1].text for conversation in prepared.conversations("val")]
    blanks = 2 * len(texts)  # Llama 2 puts one before and one after each answer
    assert sum(map(len, texts)) <= measured.characters <= sum(map(len, texts)) + blanks


def test_only_what_is_asked_for_is_computed(
    engine: Engine, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert set(evaluate_prepared(engine, prepared, metrics=["bleu"], max_samples=2, max_new_tokens=2)["metrics"]) == {
        "bleu", "count",
    }  # fmt: skip
    monkeypatch.setattr(engine, "answer_many", None)
    assert set(evaluate_prepared(engine, prepared, metrics=["loss"], max_samples=3)) == {"part", "held_out"}


def test_without_a_validation_part_the_training_part_is_used_and_said(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"question": "你好", "answer": "好"}\n', encoding="utf-8")
    prepare([str(tmp_path / "a.jsonl")], tmp_path / "out", val_share=0.0)
    console.warnings.clear()
    result = evaluate_prepared(engine, open_prepared(tmp_path / "out"), metrics=["loss"])
    assert result["part"] == "train"
    assert any("没有留出验证部分" in warning for warning in console.warnings)


@pytest.mark.parametrize(("name", "near"), [("blue", "bleu"), ("rougeL", "rouge_l"), ("ppl", "")])
def test_an_unknown_measure_is_refused_with_the_nearest(name: str, near: str) -> None:
    with pytest.raises(ConfigError) as caught:
        require_metrics(["loss", name])
    assert caught.value.code == "eval.unknown-metric"
    assert near in caught.value.message
