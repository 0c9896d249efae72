"""The main job in one go: prepare, train, evaluate before and after, merge, report. What ``run_finetune.sh`` runs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hantune.config.schema import RunConfig
from hantune.errors import ModelError
from hantune.log import console, read_events
from hantune.paths import RunFolder, free_run_folder, write_json

if TYPE_CHECKING:
    from hantune.data.types import Conversation
    from hantune.train.outcome import TrainResult

EVALUATED_DIALOGUES = 16
"""Held-out dialogues answered before and after: enough to see the change, few enough for a CPU."""
ANSWER_TOKENS = 48

@dataclass(frozen=True, kw_only=True)
class Job:
    """What to tune on what. ``dataset``: raw files or a PREPARED folder.

    ``overrides`` are dotted configuration keys; they beat ``config_file`` (YAML).
    """

    model: str
    dataset: str
    output: Path
    config_file: Path | None = None
    overrides: dict[str, Any] = field(default_factory=dict)
    max_samples: int | None = None
    max_turns: int | None = None
    val_share: float = 0.05
    local_model: bool = False


@dataclass(frozen=True, kw_only=True)
class JobResult:
    """Where everything lies, and the evaluation before and after."""

    training: TrainResult
    evaluation: dict[str, Any]
    merge: dict[str, Any] | None
    report: Path

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            **self.training.as_dict(),
            "evaluation": {
                when: {part: value for part, value in found.items() if part != "answers"}
                for when, found in self.evaluation.items()
            },
            "merge": self.merge,
            "report": str(self.report),
        }


def finetune(job: Job) -> JobResult:
    """Do the whole job.

    Raises: DataError, ModelError, RefusedError, TrainError; what was finished stays on disk.
    """
    from hantune.models.merge.merge import merge
    from hantune.report.card import write_cards
    from hantune.report.page import write_report
    from hantune.train.run import train

    check_dataset(job.dataset)
    _check_model(job)
    run = free_run_folder(job.output)
    console.say("[1/5] 整理数据")
    prepared = _prepared_folder(job, run)
    config = _config(job, run, prepared)
    console.say("[2/5] 训练")
    training = train(config)
    console.say("[3/5] 同样的问题, 训练前后各答一次")
    evaluation = evaluate_before_and_after(run, config, _held_out_dialogues(prepared))
    write_json(run.evaluation, evaluation)
    merged = None
    if config.adapter.kind == "lora":
        console.say("[4/5] 合并并核对")
        merged = merge(run.adapter, run.merged)
    console.say("[5/5] 写报告")
    report = write_report(run)
    write_cards(run)
    return JobResult(training=training, evaluation=evaluation, merge=merged, report=report)


def default_output() -> Path:
    """``runs/finetune-DATE-TIME``."""
    return Path(time.strftime("runs/finetune-%Y%m%d-%H%M%S"))


def check_dataset(name: str) -> None:
    """Refuse at once what would only fail after minutes.

    Raises: DataError ``source.missing``, ``source.wrong-type``; NetworkError ``source.hub-unreachable``.
    """
    from hantune.data.sources import expand

    expand(name)


def _check_model(job: Job) -> None:
    """Refuse a model folder that cannot be used before the data is prepared for it."""
    from hantune.models.check import check_model

    if Path(job.model).expanduser().is_dir():
        check_model(Path(job.model).expanduser())
    elif job.local_model:
        raise ModelError(
            "model.not-found",
            f"没有这个模型文件夹: {job.model}",
            place=job.model,
            hint="ls 看看名字, 或去掉 --local_model",
        )


def _prepared_folder(job: Job, run: RunFolder) -> Path:
    """Prepare into the run, or take the dataset as it is if it is PREPARED.

    What a job that never came to train left in the run's folder is replaced.
    """
    from hantune.data.prepare import prepare
    from hantune.data.prepared import is_prepared

    if is_prepared(Path(job.dataset).expanduser()):
        return Path(job.dataset).expanduser()
    manifest = prepare(
        [job.dataset],
        run.prepared,
        max_samples=job.max_samples,
        max_turns=job.max_turns,
        val_share=job.val_share,
        replace=True,
        keep_map=False,
    )
    console.say(f"读入 {manifest['read']} 条, 训练 {manifest['train']} 条, 验证 {manifest['val']} 条")
    return run.prepared


def _config(job: Job, run: RunFolder, prepared: Path) -> RunConfig:
    """The run's configuration: defaults, the job's overrides, its paths.

    Raises: ConfigError for a value out of range.
    """
    from hantune.config.io import as_overrides, load_config

    values = {
        **job.overrides,
        "model.path": job.model,
        "data.path": str(prepared),
        "train.output_dir": str(run.root),
    }
    if job.max_samples is not None:
        values["data.max_samples"] = job.max_samples
    if job.max_turns is not None:
        values["data.max_turns"] = job.max_turns
    return load_config(job.config_file, as_overrides(values)).config


def _held_out_dialogues(prepared: Path) -> list[Conversation]:
    """The first held-out dialogues (training ones where none is held out)."""
    from itertools import islice

    from hantune.data.prepared import open_prepared

    data = open_prepared(prepared)
    part = "val" if data.count("val") else "train"
    return list(islice(data.conversations(part), EVALUATED_DIALOGUES))  # type: ignore[arg-type]


def values_of(config_file: Path | None) -> dict[str, Any]:
    """What a YAML configuration says itself (its preset included), by dotted key.

    Raises: ConfigError of ``config.io``.
    """
    from hantune.config.io import DEFAULT, load_config

    if config_file is None:
        return {}
    loaded = load_config(config_file)
    values = loaded.config.model_dump()
    keys = [key for key, origin in loaded.origins.items() if origin != DEFAULT]
    return {key: values[key.partition(".")[0]][key.partition(".")[2]] for key in keys}


def loss_line(training: TrainResult) -> list[str]:
    """The held-out loss before and after, where something was held out."""
    if training.loss_before is None or training.loss_after is None:
        return []
    return [f"验证损失  {training.loss_before:.3f} -> {training.loss_after:.3f}"]


def merge_line(merge: dict[str, Any] | None) -> str:
    """The proof of a merge in one line."""
    if merge is None:
        return "合并      不需要 (训练的是全部参数)"
    proof = merge["proof"]
    return f"合并核对  与底座加适配器最多差 {proof['difference']:.0e} (允许 {proof['tolerance']:.0e}), 回答逐字一致"


def evaluate_before_and_after(
    run: RunFolder, config: RunConfig, dialogues: Sequence[Conversation]
) -> dict[str, Any]:
    """``{"before": {"metrics", "answers", "held_out"}, "after": ...}``, both under the run's own template."""
    from hantune.evaluate.answers import evaluate_model
    from hantune.infer.engine import open_engine

    asked: dict[str, Any] = {"max_samples": EVALUATED_DIALOGUES, "max_tokens": ANSWER_TOKENS}
    tuned = open_engine(run.root, device=config.train.device)
    after = evaluate_model(tuned, dialogues, **asked)
    if config.adapter.kind == "lora":
        with tuned.model.disable_adapter():
            before = evaluate_model(tuned, dialogues, **asked)
    else:
        base = open_engine(config.model.path, device=config.train.device)
        base.template = tuned.template
        before = evaluate_model(base, dialogues, **asked)
    for found, figures in zip((before, after), _held_out_figures(run), strict=True):
        if figures:
            found["held_out"] = figures
    return {"before": before, "after": after}


def _held_out_figures(run: RunFolder) -> tuple[dict[str, float], dict[str, float]]:
    """The held-out loss before training and of the weights that were kept; empty where nothing was held out."""
    evals = {
        event["step"]: {key: event[key] for key in ("loss", "perplexity", "bits_per_character")}
        for event in read_events(run.events, "eval")
    }
    kept = read_events(run.events, "end")[-1]["kept"]
    return evals.get(0, {}), evals.get(kept, {})
