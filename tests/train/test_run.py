"""One run from configuration to adapter: what it writes, repeats, resumes and refuses."""

from __future__ import annotations

import getpass
import json
import platform
import re
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from hantune.assets import tokenizer_path
from hantune.config.io import load_config
from hantune.config.schema import RunConfig
from hantune.data.types import Message
from hantune.errors import (
    ConfigError,
    HantuneError,
    Interrupted,
    MachineError,
    ModelError,
    RefusedError,
    RunError,
    TrainError,
)
from hantune.infer.engine import open_engine
from hantune.infer.sample import SamplingParams
from hantune.log import console, read_events
from hantune.paths import RunFolder, quoted
from hantune.train import checkpoint as checkpoints
from hantune.train import precision as precision_module
from hantune.train import ready as ready_module
from hantune.train.loop import Loop
from hantune.train.optim import learning_rate_at
from hantune.train.planning.forecast import forecast
from hantune.train.probe import Prober
from hantune.train.probe_plan import probe_steps
from hantune.train.run import TrainResult, resume, train
from hantune.train.setup import settings_of
from hantune.train.watch import Watch
from tests.data.mutants import ForgetsTerminator
from tests.runs import folder_bytes, small_config, story, unfinished, write_chats

PROBES = ["你好", "你是谁?"]


@dataclass(frozen=True)
class Done:
    """The run that most tests look at."""

    config: RunConfig
    result: TrainResult

    @property
    def run(self) -> RunFolder:
        return self.result.run

    def plan(self) -> dict[str, Any]:
        return dict(json.loads(self.run.plan.read_bytes()))


@pytest.fixture(scope="module")
def done(tiny_llama_folder: Path, prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Done:
    """Three passes over the data with dropout and accumulation, evaluated and saved on the way. Read only."""
    config = small_config(
        tiny_llama_folder, prepared, tmp_path_factory.mktemp("runs") / "一次",
        train__max_steps=None, train__epochs=3, train__accumulation_steps=2, train__save_every_steps=2,
        train__keep_checkpoints=2, eval__every_steps=3, eval__probes=PROBES, eval__probe_share=1.0,
        adapter__dropout=0.1,
    )  # fmt: skip
    return Done(config, train(config))


def code_of(error: type[HantuneError], action: Callable[[], Any]) -> str:
    with pytest.raises(error) as caught:
        action()
    return caught.value.code


# ---- what a run writes ----------------------------------------------------------------------------------------------


def test_a_run_writes_its_files(done: Done) -> None:
    names = {path.name for path in done.run.root.iterdir()}
    assert names == {
        ".lock", "config.yaml", "env.json", "plan.json", "events.jsonl", "samples.jsonl", "mask_sample.json",
        "log.txt", "trainer_log.jsonl", "checkpoints", "adapter",
    }  # fmt: skip
    assert done.run.is_run
    assert done.result.output == done.run.adapter


def test_the_written_configuration_is_the_one_that_ran(done: Done) -> None:
    assert load_config(done.run.config).config == done.config


def test_the_environment_tells_versions_and_nobodys_name(done: Done) -> None:
    text = done.run.env.read_text(encoding="utf-8")
    assert json.loads(text)["versions"]["torch"] == torch.__version__
    assert not {getpass.getuser(), platform.node()} & set(re.findall(r"[\w-]+", text))
    for written in (text, (done.run.adapter / "hantune.json").read_text(encoding="utf-8")):
        assert str(Path.home()) + "/" not in written
        assert str(done.run.root.parent) not in written


def test_the_plan_is_what_happened(done: Done) -> None:
    plan = done.plan()
    steps = read_events(done.run.events, "step")
    assert [event["step"] for event in steps] == list(range(1, plan["total_steps"] + 1))
    assert plan["total_steps"] == 3 * plan["steps_per_epoch"] == done.result.steps
    for epoch in range(3):
        of_epoch = steps[epoch * plan["steps_per_epoch"] : (epoch + 1) * plan["steps_per_epoch"]]
        assert sum(event["tokens"] for event in of_epoch) == plan["tokens"], "every sample once an epoch"
    assert plan["parameters"]["learned"] == sum(
        tensor.numel() for tensor in load_file(done.run.adapter / "adapter_model.safetensors").values()
    )
    assert plan["precision"]["reason"]
    assert (plan["device"], plan["threads"], plan["template"]) == ("cpu", 1, "llama2")


def test_events_tell_every_step_evaluation_and_checkpoint(done: Done) -> None:
    plan, events = done.plan(), read_events(done.run.events)
    last = plan["total_steps"]
    assert (events[0]["event"], events[-1]["event"]) == ("start", "end")
    assert (events[-1]["step"], events[-1]["reason"]) == (last, "done")
    assert events[-1]["tokens_per_second"] > 0
    for event in read_events(done.run.events, "step"):
        assert event["learning_rate"] == learning_rate_at(event["step"] - 1, last, done.config.train)
        assert 0 < event["supervised"] < event["tokens"]
        assert event["grad_norm"] > 0
    evaluated = [event["step"] for event in read_events(done.run.events, "eval")]
    assert evaluated == sorted({0, *range(3, last, 3), last})
    saved = {event["step"] for event in read_events(done.run.events, "checkpoint")}
    assert saved >= {*range(2, last, 2), last}
    assert done.result.loss_after is not None
    assert done.result.loss_before is not None
    assert done.result.loss_after < done.result.loss_before - 0.2, "training lowers the held-out loss"


def test_the_probes_are_asked_as_planned(done: Done) -> None:
    plan = done.plan()
    asked = [(line["step"], line["prompt"]) for line in read_events(done.run.samples)]
    assert plan["probes"]["steps"] == list(probe_steps(plan["total_steps"]))
    assert asked == [(step, prompt) for step in plan["probes"]["steps"] for prompt in PROBES]
    assert all(line["finish_reason"] in {"stop", "length"} for line in read_events(done.run.samples))
    figures = read_events(done.run.events, "probe_metrics")
    assert [event["step"] for event in figures] == plan["probes"]["steps"]
    (end,) = read_events(done.run.events, "end")
    assert end["probe_seconds"] > 0


def test_asking_changes_no_bit_of_the_result(done: Done, tmp_path: Path) -> None:
    for number, changes in enumerate(({"probes": ()}, {"probe_share": 0.0, "probe_max_tokens": 9})):
        asked = done.config.eval.model_copy(update=changes)
        section = done.config.train.model_copy(update={"output_dir": str(tmp_path / str(number))})
        other = train(done.config.model_copy(update={"eval": asked, "train": section}))
        assert folder_bytes(other.run.adapter) == folder_bytes(done.run.adapter)
        assert story(other.run) == story(done.run)
        assert len(read_events(other.run.samples)) == (0, 4)[number]


def test_the_newest_checkpoints_and_the_best_are_kept(done: Done) -> None:
    saved = sorted(event["step"] for event in read_events(done.run.events, "checkpoint"))
    kept = {path.name for path in done.run.checkpoints.iterdir()} - {"last", "best"}
    assert kept == {f"step-{step:06d}" for step in {*saved[-2:], done.result.best_step}}
    newest, best = checkpoints.newest_checkpoint(done.run), checkpoints.best_checkpoint(done.run)
    assert newest is not None
    assert best is not None
    assert (newest.step, best.step) == (done.result.steps, done.result.best_step)


def test_the_mask_sample_shows_what_is_learned(done: Done) -> None:
    shown = json.loads((done.run.root / "mask_sample.json").read_bytes())
    learned = "".join(token["text"] for token in shown["tokens"] if token["learn"])
    assert learned.strip()
    assert "[INST]" not in learned
    assert "[INST]" in "".join(token["text"] for token in shown["tokens"])
    assert re.search(r":\d+$", shown["source"])


def test_the_run_answers_under_its_own_template(done: Done) -> None:
    engine = open_engine(done.run.root, device="cpu")
    assert engine.template.name == "llama2"
    assert engine.answer([Message(role="user", text="你好")], SamplingParams(max_tokens=3)).ids


def test_trackers_get_plain_dotted_names(done: Done) -> None:
    values = settings_of(done.config)
    assert values["train.batch_size"] == 4
    assert all(isinstance(value, (int, float, str)) for value in values.values())


# ---- repeating and resuming -----------------------------------------------------------------------------------------


def test_the_written_configuration_repeats_the_run_in_a_new_folder(done: Done) -> None:
    again = train(load_config(done.run.config).config)
    assert again.run.root == done.run.root.with_name("一次-2")
    assert folder_bytes(again.run.adapter) == folder_bytes(done.run.adapter)
    assert story(again.run) == story(done.run)


def test_writing_the_result_again_changes_nothing(done: Done, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "copy")
    shutil.copytree(done.run.root, run.root)
    before = folder_bytes(run.root)
    result = resume(unfinished(run).root)
    after = folder_bytes(run.root)
    moved = {name for name in before if before[name] != after.get(name)}
    assert moved <= {"events.jsonl", "log.txt", ".lock"}
    assert before.keys() == after.keys()
    assert story(run) == story(done.run)
    assert result.steps == done.result.steps
    first, second = (read_events(each.events, "end")[-1] for each in (done.run, run))
    for name in ("step", "seconds", "eval_seconds", "tokens", "supervised", "tokens_per_second"):
        assert first[name] == second[name], "speed and time are those of the whole run"


def test_resuming_a_finished_run_changes_nothing(done: Done, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "copy")
    shutil.copytree(done.run.root, run.root)
    before = folder_bytes(run.root)
    result = resume(run.root)
    after = folder_bytes(run.root)
    assert {name for name in before if before[name] != after.get(name)} <= {".lock"}
    assert before.keys() == after.keys()
    assert {**result.as_dict(), "seconds": 0} == {
        **done.result.as_dict(), "seconds": 0, "run": str(run.root), "output": str(run.adapter),
    }  # fmt: skip


def test_another_dataset_base_or_folder_is_not_resumed(tiny_llama_folder: Path, prepared: Path, tmp_path: Path) -> None:
    model, data = tmp_path / "model", tmp_path / "data"
    shutil.copytree(tiny_llama_folder, model)
    shutil.copytree(prepared, data)
    run = unfinished(train(small_config(model, data, tmp_path / "run", train__max_steps=1)).run)
    shutil.copytree(data, tmp_path / "kept")
    shutil.rmtree(data)
    from hantune.data.prepare import prepare

    prepare([str(write_chats(tmp_path / "other.jsonl", 20))], data)
    with pytest.raises(ConfigError, match="数据") as caught:
        resume(run.root)
    assert (caught.value.code, caught.value.exit_code) == ("run.changed", 2)
    shutil.rmtree(data)
    (tmp_path / "kept").rename(data)
    weights = bytearray((model / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (model / "model.safetensors").write_bytes(weights)
    with pytest.raises(ConfigError, match="底座模型"):
        resume(run.root)
    assert code_of(RunError, lambda: resume(tmp_path)) == "run.not-a-run"


def test_threads_and_precision_are_those_the_run_began_with(
    tiny_llama_folder: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"train__precision": "auto", "train__threads": None, "train__max_steps": 1}
    with monkeypatch.context() as bf16_machine:
        bf16_machine.setattr(precision_module, "automatic", lambda *machine: ("bf16", "试验"))
        bf16_machine.setattr(ready_module, "DEFAULT_THREADS", 1)
        run = train(small_config(tiny_llama_folder, prepared, tmp_path / "run", **settings)).run
    plan = json.loads(run.plan.read_bytes())
    assert (plan["threads"], plan["precision"]["name"], plan["precision"]["weights"]) == (1, "bf16", "bfloat16")
    asked: list[str] = []
    choose = ready_module.choose_precision
    monkeypatch.setattr(
        ready_module,
        "choose_precision",
        lambda name, *rest, **named: asked.append(name) or choose(name, *rest, **named),
    )
    monkeypatch.setattr(ready_module, "DEFAULT_THREADS", 2)
    torch.set_num_threads(2)
    resume(unfinished(run).root)
    assert (torch.get_num_threads(), asked) == (1, ["bf16"])


@pytest.mark.parametrize("failing", ["weights", "rng"])
def test_a_full_disk_in_a_save_costs_nothing_that_was_saved(
    done: Done, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    """safetensors raises its own error, with the system's number in its text only."""
    calls: list[str] = []

    def save(tensors: Any, path: Path) -> None:
        calls.append(path.stem)
        if calls.count(failing) == 3 and path.stem == failing:
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        write(tensors, path)

    write = checkpoints.save_file
    section = done.config.train.model_copy(update={"output_dir": str(tmp_path / "run")})
    run = RunFolder(tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save_file", save)
        with pytest.raises(MachineError) as caught:
            train(done.config.model_copy(update={"train": section}))
    assert caught.value.code == "machine.disk-full"
    assert f"hantune resume {quoted(run.root)}" in str(caught.value.hint), "beginning again would be another run"
    kept = checkpoints.newest_checkpoint(run)
    assert kept is not None
    assert kept.step == read_events(run.events, "checkpoint")[-1]["step"], "only what is on disk is told"
    assert not list(run.checkpoints.glob(".tmp-*"))
    resume(run.root)
    assert folder_bytes(run.adapter) == folder_bytes(done.run.adapter)
    assert story(run) == story(done.run)


# ---- what configuration does ----------------------------------------------------------------------------------------


def test_a_raw_file_is_prepared_into_the_run(tiny_llama_folder: Path, tmp_path: Path) -> None:
    raw = write_chats(tmp_path / "raw.jsonl", 30)
    config = small_config(tiny_llama_folder, raw, tmp_path / "run", data__val_share=0.3)
    run = train(config).run
    manifest = json.loads((run.prepared / "manifest.json").read_bytes())
    assert manifest["sources"][0]["path"] == "raw.jsonl"
    assert manifest["train"] == json.loads(run.plan.read_bytes())["num_samples"]
    assert manifest["val"] > 0
    raw.unlink()
    assert resume(run.root).steps == 2, "the run has its own copy"


def test_final_best_takes_the_weights_of_the_lowest_loss(
    tiny_llama_folder: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = {0: 9.0, 1: 5.0, 2: 1.0, 3: 4.0}
    monkeypatch.setattr(Watch, "__call__", said(losses, "eval"))
    settings = {"train__max_steps": 3, "eval__every_steps": 1}
    finals = {
        final: train(small_config(tiny_llama_folder, prepared, tmp_path / final, train__final=final, **settings))
        for final in ("best", "last")
    }
    for final, step in (("best", 2), ("last", 3)):
        result = finals[final]
        assert result.best_step == 2
        saved = load_file(result.run.checkpoints / f"step-{step:06d}" / "weights.safetensors")
        adapter = load_file(result.run.adapter / "adapter_model.safetensors")
        assert {name.replace(".default.", "."): tensor.tolist() for name, tensor in saved.items()} == {
            name: tensor.tolist() for name, tensor in adapter.items()
        }


def said(values: dict[int, float], event: str) -> Callable[[Any, int], float]:
    """What stands for a watch or a prober: values by step, with their events."""

    def call(self: Any, step: int) -> float:
        self._events.write(event, step=step, loss=values[step], perplexity=1, bits_per_character=1, seconds=0)
        return values[step]

    return call


def test_the_best_by_probe_is_the_highest_score_and_its_loss_is_known(
    tiny_llama_folder: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Prober, "__call__", said({0: 99.0, 1: 5.0, 2: 7.0, 3: 6.0, 4: 7.0}, "probe_metrics"))
    config = small_config(
        tiny_llama_folder, prepared, tmp_path / "run", train__max_steps=4, eval__every_steps=3, eval__probe_share=1.0,
        train__final="best", train__best_by="probe",
    )  # fmt: skip
    result = train(config)
    assert result.best_step == 2
    saved = load_file(result.run.checkpoints / "step-000002" / "weights.safetensors")
    adapter = load_file(result.run.adapter / "adapter_model.safetensors")
    assert sorted(tensor.sum().item() for tensor in saved.values()) == sorted(t.sum().item() for t in adapter.values())
    assert read_events(result.run.events, "end")[-1]["kept"] == 2
    losses = {event["step"]: event["loss"] for event in read_events(result.run.events, "eval")}
    assert sorted(losses) == [0, 2, 3, 4]
    assert result.loss_after == losses[2]


def test_a_run_stops_early_asks_a_last_time_and_is_finished(
    tiny_llama_folder: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = {0: 9.0, 1: 5.0, 2: 4.0, 3: 4.0, 4: 4.5, 5: 1.0}
    monkeypatch.setattr(Watch, "__call__", said(losses, "eval"))
    config = small_config(
        tiny_llama_folder, prepared, tmp_path / "run", train__max_steps=40, eval__every_steps=1, train__final="best",
        train__early_stop_patience=2, train__save_every_steps=100,
    )  # fmt: skip
    result = train(config)
    assert (result.steps, result.best_step, result.loss_after) == (4, 2, 4.0)
    (end,) = read_events(result.run.events, "end")
    assert (end["reason"], end["step"], end["kept"]) == ("early-stop", 4, 2)
    assert {line["step"] for line in read_events(result.run.samples)} == {0, 4}
    before = folder_bytes(result.run.adapter)
    assert resume(result.run.root).steps == 4, "it is finished"
    shutil.rmtree(result.run.adapter)
    again = resume(result.run.root)
    assert (again.steps, folder_bytes(again.run.adapter)) == (4, before), "killed after the last step"
    assert len(read_events(result.run.events, "step")) == 4


@pytest.mark.parametrize("stop_at", [2, 3, 4])
def test_waiting_goes_on_after_a_resume_where_it_stood(
    tiny_llama_folder: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    losses = {0: 9.0, 1: 5.0, 2: 6.0, 3: 6.0, 4: 6.0, 5: 1.0}
    call = said(losses, "eval")

    def shot(self: Any, step: int) -> float:
        if step == stop_at and not is_resumed:
            raise KeyboardInterrupt
        return call(self, step)

    is_resumed = False
    monkeypatch.setattr(Watch, "__call__", shot)
    config = small_config(
        tiny_llama_folder, prepared, tmp_path / "run", train__max_steps=40, eval__every_steps=1,
        train__early_stop_patience=3, train__save_every_steps=1,
    )  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        train(config)
    is_resumed = True
    result = resume(tmp_path / "run")
    assert (result.steps, result.best_step) == (4, 1)
    assert [event["step"] for event in read_events(result.run.events, "eval")] == [0, 1, 2, 3, 4]


def test_full_training_writes_a_model_that_chats(tiny_llama_folder: Path, prepared: Path, tmp_path: Path) -> None:
    config = small_config(tiny_llama_folder, prepared, tmp_path / "run", adapter__kind="none")
    result = train(config)
    assert result.output == result.run.model
    plan = json.loads(result.run.plan.read_bytes())
    assert plan["parameters"]["learned"] == plan["parameters"]["total"]
    engine = open_engine(result.run.root, device="cpu")
    assert engine.answer([Message(role="user", text="你好")], SamplingParams(max_tokens=3)).ids
    before, after = (folder / "model.safetensors" for folder in (tiny_llama_folder, result.run.model))
    assert before.read_bytes() != after.read_bytes()


def test_rslora_reaches_the_adapter_and_the_sums(tiny_llama_folder: Path, prepared: Path, tmp_path: Path) -> None:
    runs = {
        use: train(small_config(tiny_llama_folder, prepared, tmp_path / str(use), adapter__use_rslora=use)).run
        for use in (False, True)
    }
    assert json.loads((runs[True].adapter / "adapter_config.json").read_bytes())["use_rslora"] is True
    first, second = (read_events(runs[use].events, "step")[0]["grad_norm"] for use in (False, True))
    assert second == pytest.approx(first * 2, rel=1e-3), "alpha / sqrt(4) is twice alpha / 4"


def test_bloom_is_sorted_where_packing_was_asked_for(tiny_bloom_folder: Path, prepared: Path, tmp_path: Path) -> None:
    config = small_config(tiny_bloom_folder, prepared, tmp_path / "run", train__batching="packed")
    plan = json.loads(train(config).run.plan.read_bytes())
    assert plan["layout"] == "sorted"
    assert "BLOOM" in plan["layout_reason"]


def test_a_broken_tracker_stops_no_run(
    tiny_llama_folder: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from accelerate import tracking

    class Broken:
        requires_logging_directory = False

        def __init__(self, name: str) -> None:
            raise SystemExit("not logged in")

    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "wandb", Broken)
    config = small_config(tiny_llama_folder, prepared, tmp_path / "run", log__trackers=["wandb"])
    assert train(config).steps == 2


def test_a_dry_run_plans_and_leaves_nothing(
    done: Done, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    section = done.config.train.model_copy(update={"output_dir": str(tmp_path / "run")})
    (tmp_path / "scratch").mkdir()
    plan = forecast(done.config.model_copy(update={"train": section}), tmp_path / "scratch").as_dict()
    assert [path.name for path in tmp_path.iterdir()] == ["scratch"]
    assert not list((tmp_path / "scratch").iterdir())
    looked = {"recompute", "prepack"}  # their reasons name the memory; this run looked at none
    same = plan.keys() & done.plan().keys() - looked
    assert {"total_steps", "precision", "parameters", "probes"} <= same
    assert {name: plan[name] for name in same} == {name: done.plan()[name] for name in same}
    assert plan["check"]["kept"] == plan["num_samples"]


# ---- what is refused ------------------------------------------------------------------------------------------------


def test_a_wrong_mask_does_not_start(
    tiny_llama_folder: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config(tiny_llama_folder, prepared, tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr("hantune.data.templates.get_template", lambda *_, **__: ForgetsTerminator(name="llama2"))
        with pytest.raises(RefusedError) as caught:
            train(config)
    assert (caught.value.code, caught.value.exit_code) == ("mask.terminator-not-learned", 3)
    assert re.search(r"chats\.jsonl:\d+", str(caught.value.place))
    assert not RunFolder(tmp_path / "run").is_run
    assert train(config).run.root == tmp_path / "run", "the mended run takes the folder"


def test_two_runs_never_share_a_folder(done: Done, tiny_llama_folder: Path, prepared: Path, tmp_path: Path) -> None:
    config = small_config(tiny_llama_folder, prepared, tmp_path / "run")
    with RunFolder(tmp_path / "run").lock():
        assert code_of(RunError, lambda: train(config)) == "run.in-use"
    with done.run.lock():
        assert code_of(RunError, lambda: resume(done.run.root)) == "run.in-use"


def test_an_adapter_that_did_not_move_is_no_success(tiny_llama_folder: Path, prepared: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="train.learning_rate"):
        small_config(tiny_llama_folder, prepared, tmp_path / "run", train__learning_rate=0)
    config = small_config(tiny_llama_folder, prepared, tmp_path / "run", train__learning_rate=1e-60)
    assert code_of(TrainError, lambda: train(config)) == "adapter.not-saved"
    assert not (tmp_path / "run" / "adapter").exists()


def test_a_tokenizer_with_more_ids_than_the_model_has_rows_is_refused(
    tiny_llama_folder: Path, prepared: Path, tmp_path: Path
) -> None:
    config = small_config(tiny_llama_folder, prepared, tmp_path / "run", model__tokenizer=str(tokenizer_path()))
    assert code_of(ModelError, lambda: train(config)) == "model.vocab-too-small"


def test_a_changed_setting_is_not_resumed(done: Done, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "copy")
    shutil.copytree(done.run.root, run.root)
    unfinished(run)
    text = run.config.read_text(encoding="utf-8")
    run.config.write_text(text.replace("rank: 4", "rank: 2"), encoding="utf-8")
    with pytest.raises(ConfigError, match="adapter.rank  4 -> 2") as caught:
        resume(run.root)
    assert caught.value.code == "run.changed"
    assert "train.batch_size" in str(caught.value.hint), "what may be changed is said"


def test_what_may_change_is_taken_kept_and_told(
    tiny_llama_folder: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Stopped after two of six steps of 4, gone on with 8 a step, stopped again, gone on without a word more."""
    out = tmp_path / "run"
    config = small_config(tiny_llama_folder, prepared, out, train__max_steps=6, train__save_every_steps=2)
    stop_after(monkeypatch, 2)
    with pytest.raises(Interrupted):
        train(config)
    stop_after(monkeypatch, 3)
    with pytest.raises(Interrupted):
        resume(out, ["train.batch_size=2", "train.accumulation_steps=4", "train.threads=2", "log.every_steps=2"])
    told = capsys.readouterr().err
    assert "train.batch_size  4 -> 2" in told
    assert "每步 4 条改成 8 条" in told
    monkeypatch.undo()
    result = resume(out)
    assert "改了" not in capsys.readouterr().err, "what was changed is the run's own now"
    plan = json.loads(result.run.plan.read_bytes())
    assert (plan["deals"], plan["samples_per_step"], plan["threads"]) == ([[0, 4], [2, 8]], 8, 2)
    assert result.steps == plan["total_steps"] == 4, "24 samples: two steps of 4, two of 8"
    kept = load_config(result.run.config).config
    assert (kept.train.batch_size, kept.train.accumulation_steps, kept.log.every_steps) == (2, 4, 2)
    steps = read_events(result.run.events, "step")
    assert [event["step"] for event in steps] == [1, 2, 4]
    (again,) = read_events(result.run.events, "resume")[-1:]
    assert again["samples_per_step"] == 8


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Let the next run be told to stop when it has done ``step``."""
    measure = Loop._train_step

    def train_step(self: Loop, bar: Any) -> None:
        measure(self, bar)
        if self.step == step:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Loop, "_train_step", train_step)


def test_what_lies_elsewhere_but_is_the_same_goes_on(tiny_llama_folder: Path, prepared: Path, tmp_path: Path) -> None:
    run = unfinished(train(small_config(tiny_llama_folder, prepared, tmp_path / "run")).run)
    moved, other = tmp_path / "moved", tmp_path / "other"
    shutil.copytree(prepared, moved)
    assert resume(run.root, [f"data.path={moved}"]).steps == 2
    from hantune.data.prepare import prepare

    prepare([str(write_chats(tmp_path / "chats.jsonl", 30))], other)
    unfinished(run)
    with pytest.raises(ConfigError, match="数据  ") as caught:
        resume(run.root, [f"data.path={other}"])
    assert caught.value.code == "run.changed"


def test_a_raw_file_that_is_named_anew_is_not_taken_for_the_runs_own_copy(
    tiny_llama_folder: Path, tmp_path: Path
) -> None:
    raw = write_chats(tmp_path / "raw.jsonl", 12)
    run = unfinished(train(small_config(tiny_llama_folder, raw, tmp_path / "run", train__max_steps=1)).run)
    other = write_chats(tmp_path / "other.jsonl", 16)
    with pytest.raises(ConfigError, match="data.path"):
        resume(run.root, [f"data.path={other}"])


def test_another_library_is_told(done: Done, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder(tmp_path / "copy")
    shutil.copytree(done.run.root, run.root)
    text = run.env.read_text(encoding="utf-8")
    run.env.write_text(text.replace(torch.__version__, "2.9.0"), encoding="utf-8")
    monkeypatch.setattr(console, "warnings", [])
    resume(unfinished(run).root)
    assert any(f"torch 2.9.0 -> {torch.__version__}" in warning for warning in console.warnings)
