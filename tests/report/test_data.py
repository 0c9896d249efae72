"""Reading a run folder: what is missing is empty, what is broken is named, only a wrong folder is an error."""

from __future__ import annotations

from pathlib import Path

import pytest

from hantune.errors import RunError
from hantune.paths import RunFolder
from hantune.report.data import Change, Probe, RunData, _probes, number, read_run, spoken


def test_a_whole_run_is_read(run: RunFolder) -> None:
    data = read_run(run)
    assert data.name == "runs/demo"
    assert data.held_out() == Change(5.54, 1.861)
    assert data.metric("bleu") == Change(0.31, 8.42)
    assert (data.last_step, data.planned_steps, data.is_finished) == (96, 96, True)
    assert (data.num_samples, data.seconds(), data.tokens_per_second()) == (1732, 231.4, 1746.9)
    assert [answer.changed for answer in data.answers()] == [True, True, True, False]
    assert [len(probe.answers) for probe in data.probes] == [5, 5]
    assert data.broken == ()


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError) as caught:
        read_run(RunFolder(tmp_path / "nothing"))
    assert caught.value.code == "report.no-run"
    assert caught.value.hint is not None
    assert "hantune demo" in caught.value.hint


def test_a_folder_inside_a_run_names_the_run(run: RunFolder) -> None:
    inner = run.checkpoints / "step-000024"
    inner.mkdir(parents=True)
    with pytest.raises(RunError) as caught:
        read_run(RunFolder(inner))
    assert caught.value.hint == "hantune report runs/demo"


def test_a_wrong_folder_names_the_latest_run(run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(RunError) as caught:
        read_run(RunFolder(tmp_path / "elsewhere"))
    assert caught.value.hint == "hantune report runs/demo"


def test_a_run_elsewhere_is_called_by_its_name_only(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    (run.root / "work").mkdir()
    monkeypatch.chdir(run.root / "work")
    assert read_run(run).name == "demo"


@pytest.mark.parametrize("name", ["evaluation.json", "plan.json", "env.json", "mask_sample.json", "config.yaml"])
def test_a_broken_file_is_named_and_left_out(run: RunFolder, name: str) -> None:
    (run.root / name).write_text('{"a": [1, 2', encoding="utf-8")
    assert read_run(run).broken == (name,)


def test_without_an_end_the_run_is_unfinished_and_its_steps_tell_time_and_speed(run: RunFolder) -> None:
    lines = run.events.read_bytes().splitlines(keepends=True)
    run.events.write_bytes(b"".join(lines[:40]) + b'{"event": "step", "st')
    run.evaluation.unlink()
    data = read_run(run)
    assert not data.is_finished
    assert data.seconds() == pytest.approx(2.41 * data.last_step)
    assert data.tokens_per_second() == pytest.approx(4210 / 2.41)
    assert data.held_out()[2:] == ("训练前", "第 24 步")


def test_a_step_done_again_after_a_resume_counts_once() -> None:
    first, again = ({"event": "step", "step": 3, "loss": loss} for loss in (2.0, 1.5))
    data = RunData(name="r", events=(first, {"event": "resume", "step": 2}, again))
    assert data.curve("step", "loss") == [(3, 1.5)]


def test_the_best_step_is_the_result_when_the_run_takes_the_best() -> None:
    losses = {0: 5.0, 10: 2.0, 20: 3.0}
    events = [{"event": "eval", "step": step, "loss": loss} for step, loss in losses.items()]
    best = RunData(name="r", events=(*events, {"event": "end", "step": 20, "kept": 10}))
    last = RunData(name="r", events=(*events, {"event": "end", "step": 20, "kept": 20}))
    assert best.held_out() == Change(5.0, 2.0)
    assert last.held_out() == Change(5.0, 3.0)


def test_a_run_that_stopped_early_is_finished() -> None:
    ends = [{"event": "end", "step": 20, "kept": 10, "reason": reason} for reason in ("done", "early-stop")]
    runs = [RunData(name="r", events=(end,), plan={"total_steps": 50}) for end in ends]
    assert [run.is_finished for run in runs] == [False, True]


def test_probes_tell_reference_and_repeated_row() -> None:
    lines = [
        {"step": 5, "prompt": "问", "answer": "答", "finish_reason": "length", "reference": "好",
         "repeats": {"source": "a.json:3", "text": "答"}},
        {"step": 0, "prompt": "问", "answer": "呀", "finish_reason": "stop", "reference": "好", "repeats": None},
    ]  # fmt: skip
    (probe,) = _probes(lines)
    assert probe == Probe("问", ((0, "呀", ""), (5, "答", "到长度上限, 和训练数据 a.json:3 一样")), "好")


def test_answers_meet_by_question_also_in_another_order_and_asked_twice() -> None:
    def rows(*pairs: tuple[str, str]) -> dict[str, object]:
        return {"answers": [{"prompt": prompt, "answer": answer} for prompt, answer in pairs]}

    data = RunData(
        name="r",
        evaluation={
            "before": rows(("甲", "1"), ("乙", "2"), ("甲", "3")),
            "after": rows(("乙", "4"), ("甲", "5"), ("甲", "6")),
        },
    )
    assert [answer[:4:3] for answer in data.answers()] == [("乙", "4"), ("甲", "5"), ("甲", "6")]
    assert [answer.before for answer in data.answers()] == ["2", "1", "3"]


def test_numbers_are_finite_and_prompts_are_text() -> None:
    values = [1, 0.5, True, "1", float("nan"), float("inf"), None, 10**400]
    assert [number(value) for value in values] == [1, 0.5, None, None, None, None, None, None]
    assert spoken([{"role": "user", "content": "你好"}, "尾"]) == "用户: 你好\n尾"
