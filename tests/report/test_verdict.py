"""The sentence at the head of a report says no more than the numbers do."""

from __future__ import annotations

from typing import Any

import pytest

from hantune.paths import RunFolder
from hantune.report.data import RunData, read_run
from hantune.report.verdict import base_name, hub_id, verdict, warnings_of, what_was_done


def data(losses: dict[int, float], *, answers: tuple[tuple[str, str], ...] = (), **values: Any) -> RunData:
    """A finished run with these held-out losses and (before, after) answers."""
    events = [{"event": "eval", "step": step, "loss": loss} for step, loss in losses.items()]
    events.append({"event": "end", "step": max(losses, default=0)})
    sides = [[{"prompt": str(i), "answer": pair[side]} for i, pair in enumerate(answers)] for side in (0, 1)]
    evaluation = {"before": {"answers": sides[0]}, "after": {"answers": sides[1]}} if answers else {}
    return RunData(name="runs/r", events=tuple(events), evaluation=evaluation, **values)


def test_the_sentence_of_a_good_run(run: RunFolder) -> None:
    found = verdict(read_run(run))
    assert found.tone == "good"
    assert found.sentence == "在没见过的对话上, 损失从 5.54 降到 1.86, 4 个问题里 3 个的回答变了."
    assert found.notes == []


@pytest.mark.parametrize(
    ("last", "tone", "words"),
    [(2.0, "good", "从 5.00 降到 2.00"), (5.01, "flat", "几乎没变 (5.00 → 5.01)"), (6.0, "bad", "从 5.00 升到 6.00")],
)
def test_tone_follows_the_held_out_loss(last: float, tone: str, words: str) -> None:
    found = verdict(data({0: 5.0, 9: last}))
    assert found.tone == tone
    assert words in found.sentence


def test_an_unfinished_run_says_so_and_how_to_go_on() -> None:
    run = data({0: 5.0, 9: 2.0}, plan={"total_steps": 100})
    found = verdict(run)
    assert found.tone == "open"
    assert found.sentence.startswith("这次运行没有跑完, 停在第 9 步 (共 100 步). ")
    assert "从 5.00 降到第 9 步的 2.00" in found.sentence
    assert "接着练: hantune resume runs/r" in found.notes


def test_training_loss_alone_is_no_proof() -> None:
    steps = tuple({"event": "step", "step": step, "loss": 5.0 - step} for step in (1, 2))
    found = verdict(RunData(name="r", events=(*steps, {"event": "end", "step": 2})))
    assert found.tone == "open"
    assert "没有验证" in found.sentence


def test_nothing_is_known_of_an_empty_run() -> None:
    assert verdict(RunData(name="r")).sentence == "这次运行还没有可以看的结果."


def test_too_much_training_is_named_with_the_step_and_the_setting() -> None:
    losses = {0: 5.0, 10: 2.0, 20: 2.5}
    assert "第 10 步最低" in verdict(data(losses)).notes[0]
    assert "train.final=best" in verdict(data(losses)).notes[0]
    assert "结果取的是第 10 步" in verdict(data(losses, config={"train": {"final": "best"}})).notes[0]
    assert verdict(data({0: 5.0, 10: 2.0, 20: 2.01})).notes == []


def test_one_answer_to_everything_and_no_change_are_named() -> None:
    same = verdict(data({0: 5.0, 9: 2.0}, answers=tuple((str(i), "好") for i in range(4))))
    still = verdict(data({0: 5.0, 9: 2.0}, answers=(("甲", "甲"), ("乙", "乙"))))
    assert "同样的回答" in same.notes[0]
    assert "2 个问题的回答一个也没变" in still.sentence
    assert "train.learning_rate" in still.notes[0]


@pytest.mark.parametrize(("val", "words"), [(0, "没有留出"), (3, "只有 3 段"), (20, "")])
def test_few_held_out_conversations_are_named(val: int, words: str) -> None:
    notes = verdict(data({0: 5.0, 9: 2.0}, manifest={"val": val})).notes
    assert (words in notes[0]) if words else notes == []


def test_a_loss_that_is_no_number_is_named() -> None:
    run = RunData(name="r", events=({"event": "step", "step": 7, "loss": float("nan")}, {"event": "end", "step": 7}))
    assert any("第 7 步" in note for note in verdict(run).notes)


def test_warnings_and_broken_files_are_told_once() -> None:
    event = {"event": "warning", "message": "磁盘快满了"}
    assert warnings_of(RunData(name="r", events=(event, event), broken=("plan.json",))) == [
        "磁盘快满了",
        "plan.json 读不出来, 报告里少了它的那一部分.",
    ]


def test_what_was_done_in_one_sentence(run: RunFolder) -> None:
    wanted = "用 1,732 段对话训练 HanTune/demo-base 的 LoRA 适配器 (秩 8), 96 步, 用时 3 分 51 秒."
    assert what_was_done(read_run(run)) == wanted
    assert what_was_done(RunData(name="r")) == "训练 LoRA 适配器."


@pytest.mark.parametrize(
    ("path", "name", "hub"),
    [
        ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B"),
        ("/home/zhang/models/m110", "m110", ""),
        ("C:\\Users\\zhang\\m110", "m110", ""),
        ("./m110", "m110", ""),
        ("~/m110", "m110", ""),
        ("a/b/m110", "m110", ""),
        ("m110", "m110", ""),
        ("", "", ""),
    ],
)
def test_the_base_is_a_hub_id_or_a_bare_name(path: str, name: str, hub: str) -> None:
    run = RunData(name="r", config={"model": {"path": path}})
    assert (base_name(run), hub_id(run)) == (name, hub)


def test_what_the_adapter_remembers_of_its_base_comes_first() -> None:
    run = RunData(name="r", config={"model": {"path": "/x/y"}}, adapter={"base": {"id": None, "name": "m110"}})
    assert (base_name(run), hub_id(run)) == ("m110", "")


