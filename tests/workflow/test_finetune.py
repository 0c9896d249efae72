"""The whole job: prepare, train, evaluate before and after, merge, report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hantune.data.prepare import prepare
from hantune.errors import HantuneError, ModelError
from hantune.log import read_events
from hantune.paths import RunFolder
from hantune.workflow import finetune as workflow
from hantune.workflow.finetune import Job, JobResult, check_dataset, finetune, loss_line, merge_line, values_of
from tests.runs import SMALL, write_chats


def job(model: Path, dataset: Path, output: Path, **settings: Any) -> Job:
    overrides = {**SMALL, **settings.pop("overrides", {})}
    return Job(model=str(model), dataset=str(dataset), output=output, overrides=overrides, val_share=0.3, **settings)


@pytest.fixture(scope="module")
def done(tiny_llama_folder: Path, chats: Path, tmp_path_factory: pytest.TempPathFactory) -> JobResult:
    out = tmp_path_factory.mktemp("jobs") / "out"
    return finetune(job(tiny_llama_folder, chats, out, max_samples=16, max_turns=1))


def test_a_job_ends_with_everything(done: JobResult) -> None:
    run = done.training.run
    merged = run.merged / "model.safetensors"
    for path in (run.prepared / "manifest.json", run.adapter, merged, run.evaluation, run.report):
        assert path.exists(), path
    assert done.report == run.report
    assert "<html" in run.report.read_text(encoding="utf-8")
    assert done.merge is not None
    assert done.merge["proof"]["difference"] <= done.merge["proof"]["tolerance"]
    assert json.loads((run.prepared / "manifest.json").read_bytes())["train"] == 16
    assert json.loads(json.dumps(done.as_dict()))["evaluation"]["before"].keys() == {"metrics", "held_out"}


def test_before_and_after_answer_the_same_held_out_questions(done: JobResult) -> None:
    run = done.training.run
    evaluation = json.loads(run.evaluation.read_bytes())
    before, after = evaluation["before"], evaluation["after"]
    assert [row["prompt"] for row in before["answers"]] == [row["prompt"] for row in after["answers"]]
    assert before["metrics"].keys() == after["metrics"].keys()
    evals = read_events(run.events, "eval")
    assert before["held_out"]["loss"] == evals[0]["loss"] == done.training.loss_before
    assert after["held_out"]["loss"] == evals[-1]["loss"] < before["held_out"]["loss"]


def test_the_held_out_figures_are_those_of_the_weights_that_were_kept(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    evals = [
        {"event": "eval", "step": step, "loss": loss, "perplexity": 1, "bits_per_character": 1}
        for step, loss in ((0, 9.0), (5, 2.0), (10, 3.0))
    ]
    for kept, loss in ((5, 2.0), (10, 3.0)):
        lines = [*evals, {"event": "end", "step": 10, "kept": kept}]
        run.events.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        before, after = workflow._held_out_figures(run)
        assert (before["loss"], after["loss"]) == (9.0, loss)
    run.events.write_text(json.dumps({"event": "end", "step": 10, "kept": 10}), encoding="utf-8")
    assert workflow._held_out_figures(run) == ({}, {})


def test_full_training_needs_no_merge_and_a_prepared_dataset_no_preparing(
    tiny_llama_folder: Path, chats: Path, tmp_path: Path
) -> None:
    prepare([str(chats)], tmp_path / "data", val_share=0)
    result = finetune(
        job(tiny_llama_folder, tmp_path / "data", tmp_path / "out", overrides={"adapter.kind": "none"}, max_samples=6)
    )
    run = result.training.run
    assert result.merge is None
    assert "不需要" in merge_line(result.merge)
    assert not run.prepared.exists()
    assert json.loads(run.plan.read_bytes())["num_samples"] == 6
    assert (loss_line(result.training), result.training.loss_after) == ([], None)
    evaluation = json.loads(run.evaluation.read_bytes())
    assert "held_out" not in evaluation["after"]
    assert evaluation["before"]["answers"], "without held-out dialogues, training ones are asked"


def test_a_second_job_takes_the_next_folder_and_an_unstarted_one_is_used(
    tiny_llama_folder: Path, chats: Path, tmp_path: Path
) -> None:
    """What a refused attempt prepared must neither block nor feed the next one."""
    out = tmp_path / "out"
    prepare([str(write_chats(tmp_path / "other.jsonl", 4))], RunFolder(out).prepared)
    first = finetune(job(tiny_llama_folder, chats, out, max_samples=8))
    assert first.training.run.root == out
    assert json.loads(first.training.run.plan.read_bytes())["num_samples"] == 8
    second = finetune(job(tiny_llama_folder, chats, out, max_samples=9))
    assert second.training.run.root == out.with_name("out-2")
    assert json.loads(second.training.run.plan.read_bytes())["num_samples"] == 9


@pytest.mark.parametrize(
    ("dataset", "code"),
    [("lccc-base", "source.hub-unreachable"), ("没有.jsonl", "source.missing")],
)
def test_what_cannot_work_is_refused_at_once(
    dataset: str, code: str, tiny_llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HANTUNE_HOME", str(tmp_path))
    asked = Job(model=str(tiny_llama_folder), dataset=dataset, output=tmp_path / "out")
    for action in (lambda: check_dataset(dataset), lambda: finetune(asked)):
        with pytest.raises(HantuneError) as caught:
            action()
        assert caught.value.code == code
    assert not (tmp_path / "out").exists()


def test_a_bad_model_is_refused_before_the_data_are_prepared(chats: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for settings, code in (
        ({"model": str(tmp_path / "empty")}, "model.no-weights"),
        ({"model": "some/model", "local_model": True}, "model.not-found"),
    ):
        with pytest.raises(ModelError) as caught:
            finetune(Job(dataset=str(chats), output=tmp_path / "out", **settings))  # type: ignore[arg-type]
        assert caught.value.code == code
    assert not (tmp_path / "out").exists()


def test_values_of_a_file_are_those_it_says(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("train:\n  epochs: 2\neval:\n  probes: []\n", encoding="utf-8")
    assert values_of(path) == {"train.epochs": 2.0, "eval.probes": ()}
    assert values_of(None) == {}
