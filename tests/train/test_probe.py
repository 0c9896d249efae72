"""Asking the fixed questions while a run trains: what is written, said and warned of, and what does not move."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hantune.infer.engine import Completion, Engine
from hantune.log import EventLog, console, read_events
from hantune.paths import RunFolder
from hantune.train.probe import Prober, in_words
from hantune.train.ready import get_ready
from hantune.train.setup import Material, open_material
from tests.runs import small_config
from tests.train.test_watch import Heard


@pytest.fixture
def prober_on(tiny_llama_folder: Path, prepared: Path, tmp_path: Path) -> Callable[..., tuple[Prober, Any]]:
    """``prober_on(**changes)``: a prober on a run of four steps, and (model, run, material, heard)."""

    def make(**changes: Any) -> tuple[Prober, Any]:
        run = RunFolder(tmp_path / "run")
        run.root.mkdir(exist_ok=True)
        settings = {"eval__probes": None, "eval__probe_max_tokens": 4, "train__max_steps": 4, **changes}
        config = small_config(tiny_llama_folder, prepared, run.root, **settings)
        material, heard = open_material(config, run), Heard()
        ready = get_ready(config, material)
        logs = EventLog(run.events), EventLog(run.samples)
        prober = Prober(ready.probes, ready.plan, material, ready.model, run, *logs, heard)  # type: ignore[arg-type]
        return prober, (ready, run, material, heard)

    return make


def test_answers_and_figures_are_written_and_nothing_else_moves(prober_on: Any, prepared: Path) -> None:
    prober, (ready, run, _, heard) = prober_on()
    ready.model.train()
    state = torch.get_rng_state()
    weights = {name: tensor.clone() for name, tensor in ready.model.state_dict().items()}
    score = prober(3)
    assert torch.equal(torch.get_rng_state(), state), "asking draws nothing: it may be more or less often"
    after = {name: tensor for name, tensor in ready.model.state_dict().items() if not tensor.is_meta}
    assert all(torch.equal(tensor, weights[name]) for name, tensor in after.items())
    assert all(module.training for module in ready.model.modules())
    lines = read_events(run.samples)
    assert [line["prompt"] for line in lines] == [probe.prompt for probe in ready.probes]
    assert set(lines[0]) == {
        "event", "time", "step", "prompt", "answer", "finish_reason", "reference", "source", "repeats",
    }  # fmt: skip
    assert [line["reference"] is not None for line in lines] == [False] * 4 + [True] * 4
    (event,) = read_events(run.events, "probe_metrics")
    assert set(event) == {
        "event", "time", "step", "count", "chinese_share", "stop_rate", "repetition", "empty_share", "memorised",
        "memorised_held_out", "different", "length_ratio", "score", "seconds",
    }  # fmt: skip
    assert (event["step"], event["count"], event["score"]) == (3, 8, round(score, 4))
    ((values, step),) = heard.values
    assert (set(values), step) == (
        {f"probe_{name}" for name in ("chinese_share", "stop_rate", "repetition", "memorised", "score")}, 3,
    )  # fmt: skip


def test_without_questions_nothing_is_asked(prober_on: Any) -> None:
    prober, (ready, run, _, heard) = prober_on(eval__probes=[])
    assert prober(0) is None
    assert ready.plan.probes.steps == ()
    assert [read_events(run.samples), read_events(run.events), heard.values] == [[], [], []]


def test_an_answer_that_is_a_training_row_names_it(prober_on: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    prober, (_, run, material, _) = prober_on()
    row, ids = longest_reply(material)
    answer_all_with(monkeypatch, ids, "stop")
    prober(3)
    line, *_ = read_events(run.samples)
    assert line["repeats"]["source"] == material.train[row].source
    assert line["repeats"]["text"] in material.encoder.decode(ids)
    (event,) = read_events(run.events, "probe_metrics")
    assert (event["memorised"], event["different"], event["stop_rate"]) == (1.0, 1, 1.0)


def longest_reply(material: Material) -> tuple[int, list[int]]:
    """(row, learned ids without the end) of the training row with the most learned tokens in one reply."""
    replies = [[t for t, learn in zip(e.ids, e.mask, strict=True) if learn][:-1] for e in material.train]
    row = max(range(len(replies)), key=lambda number: len(replies[number]))
    return row, replies[row]


def answer_all_with(patch: pytest.MonkeyPatch, ids: list[int], finish_reason: Any) -> None:
    def answer_many(self: Engine, many: Any, *_: Any) -> list[Completion]:
        text = self.encoder.decode(ids)
        return [Completion(text=text, ids=tuple(ids), finish_reason=finish_reason, prompt_tokens=1) for _ in many]

    patch.setattr(Engine, "answer_many", answer_many)


def test_a_bad_sign_is_told_once_a_run_even_over_a_resume(
    prober_on: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prober, (_, run, material, _) = prober_on()
    _, ids = longest_reply(material)
    answer_all_with(monkeypatch, ids, "stop")
    for step in (0, 3, 4):
        prober(step)
    again, _ = prober_on()
    again(4)
    told = [(event["code"], event["step"]) for event in read_events(run.events, "warning")]
    assert told == [("probe.same", 3), ("probe.memorised", 3)]
    assert capsys.readouterr().err.count("在背原文") == 1


def test_the_line_a_beginner_reads(prober_on: Any, capsys: pytest.CaptureFixture[str]) -> None:
    prober, _ = prober_on()
    console.quiet = False
    prober(2)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "试答" in line]
    assert line.startswith("第 2 步  试答: 中文 ")
    assert "正常收尾" in line
    assert "/8, 重复 " in line
    line.encode("gbk")


def test_figures_in_words(prober_on: Any) -> None:
    from tests.evaluate.test_signs import GOOD

    assert in_words(GOOD) == "中文 98%, 正常收尾 6/8, 重复 0/8, 背原文 1/8, 长度是参考的 1.1 倍"
    assert "长度" not in in_words(replace(GOOD, length_ratio=None))
