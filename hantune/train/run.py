"""One run, from configuration to adapter: the recipe.

    config ─> material (data, mask checked, tokens) ─> model + LoRA ─> loop ─> adapter/ or model/
"""

from __future__ import annotations

import os
import platform
import shutil
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hantune import __version__
from hantune.config.schema import RunConfig
from hantune.errors import RunError, TrainError
from hantune.log import EventLog, console, duration, read_events
from hantune.paths import RunFolder, free_run_folder, quoted, write_file, write_json
from hantune.train import checkpoint as checkpoints
from hantune.train.loop import Loop
from hantune.train.parallel import make_accelerator
from hantune.train.precision import Precision
from hantune.train.ready import Ready, get_ready, require_libraries
from hantune.train.setup import (
    Material,
    check_same_material,
    fingerprints,
    open_material,
    settings_of,
    write_mask_sample,
)
from hantune.train.trackers import Trackers
from hantune.train.watch import Watch


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a finished run reached. Losses are mean nats per learned token on held-out data."""

    run: RunFolder
    output: Path
    steps: int
    loss_before: float | None
    loss_after: float | None
    best_step: int | None
    tokens_per_second: float
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "run": str(self.run.root),
            "output": str(self.output),
            "steps": self.steps,
            "loss_before": self.loss_before,
            "loss_after": self.loss_after,
            "best_step": self.best_step,
            "tokens_per_second": round(self.tokens_per_second, 1),
            "seconds": round(self.seconds, 1),
        }


def train(config: RunConfig) -> TrainResult:
    """Start a run in a folder of its own and train it to the end.

    Raises: ConfigError, RefusedError (mask, template, model, folder), DataError, TrainError, Interrupted.
    """
    from hantune.config.io import require_complete

    require_complete(config)
    require_libraries(config)
    config = _with_absolute_paths(config)
    run = free_run_folder(Path(config.train.output_dir or time.strftime("runs/%Y%m%d-%H%M%S")).expanduser())
    is_new = not run.root.exists()
    with run.lock():
        try:
            material = open_material(config, run)
            ready = get_ready(config, material)
        except BaseException:
            if is_new:
                shutil.rmtree(run.root, ignore_errors=True)
            raise
        _write_start(run, material, ready, config)
        with console.copied_to(run.log):
            return _perform(config, run, material, ready)


def resume(folder: Path) -> TrainResult:
    """Go on with a run from its newest checkpoint that verifies (from the start if there is none).

    Raises: RunError ``run.not-a-run``; ConfigError ``run.changed``; and what ``train`` raises.
    """
    import json

    from hantune.config.io import load_config

    run = RunFolder(folder)
    if not run.is_run:
        hint = f"hantune train {quoted(folder)}" if folder.is_file() else "ls runs/  看看有哪些"
        raise RunError("run.not-a-run", "这不是一个运行文件夹", place=str(folder), hint=hint)
    config = load_config(run.config).config
    with run.lock():
        if finished := _finished(run, config):
            console.say(f"这次运行已经练完 ({finished.steps} 步), 没有要接着练的")
            return finished
        recorded = json.loads(run.plan.read_bytes())
        material = open_material(config, run)
        check_same_material(material, config, recorded["fingerprints"], run)
        with console.copied_to(run.log):
            return _perform(config, run, material, get_ready(config, material, recorded))


def dry_run(config: RunConfig, scratch: Path) -> dict[str, Any]:
    """The plan of a run that is not started: data checked, steps counted, precision chosen. Writes to ``scratch``."""
    from hantune.config.io import require_complete

    require_complete(config)
    require_libraries(config)
    run = RunFolder(scratch)
    material = open_material(config, run)
    return {**get_ready(config, material).as_dict(material), "check": material.check.as_dict()}


def _with_absolute_paths(config: RunConfig) -> RunConfig:
    """Local paths made absolute, so that ``config.yaml`` means the same wherever it is used; hub names stay."""

    def absolute(path: str | None) -> str | None:
        local = Path(path or "").expanduser()
        return str(local.resolve()) if path and local.exists() else path

    model = {"path": absolute(config.model.path), "tokenizer": absolute(config.model.tokenizer)}
    return config.model_copy(
        update={
            "model": config.model.model_copy(update=model),
            "data": config.data.model_copy(update={"path": absolute(config.data.path)}),
        }
    )


def _write_start(run: RunFolder, material: Material, ready: Ready, config: RunConfig) -> None:
    """The files that make a folder a run; ``events.jsonl`` comes last, as its presence says the rest is whole."""
    import accelerate
    import peft
    import transformers

    from hantune.config.io import dump_config

    write_file(run.config, dump_config(config, comments=True))
    write_mask_sample(material, run)
    write_json(run.plan, {**ready.as_dict(material), "fingerprints": fingerprints(material, config)})
    versions = {
        "hantune": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
        "accelerate": accelerate.__version__,
    }
    write_json(run.env, {"versions": versions, "system": platform.platform(), "cpus": os.cpu_count()})
    write_file(run.events, "")


def _perform(config: RunConfig, run: RunFolder, material: Material, ready: Ready) -> TrainResult:
    """Train from the newest good checkpoint (or step 0) to the end and write what was learned."""
    start = time.monotonic()
    ready.say()
    accelerator = make_accelerator(ready.device, ready.precision)
    model = accelerator.prepare_model(ready.model) if ready.device.type != "cpu" else ready.model
    checkpoints.sweep_unfinished(run)
    with (
        closing(EventLog(run.events)) as events,
        closing(EventLog(run.samples)) as answers,
        closing(Trackers(config.log.trackers, run, settings_of(config))) as trackers,
    ):
        watch = Watch(config, material, model, accelerator, events, answers, trackers)
        loop = Loop(
            model=model,
            samples=material.train,
            plan=ready.plan,
            section=config.train,
            pad_id=material.encoder.pad_id,
            accelerator=accelerator,
            run=run,
            events=events,
            answers=answers,
            evaluate=watch,
            report=trackers.log,
            log_every=config.log.every_steps,
        )
        _restore(loop, run, events, answers)
        try:
            loop.train()
        except TrainError as error:
            events.write("stop", step=loop.step, **error.as_dict())
            _keep_good(loop, config, run, material, model, ready.precision)
            raise
        if config.train.final == "best":
            _take_best(loop, run)
        loop.stepper.ema.take()
        output = _write_output(config, run, material, model, ready.precision)
        events.write(
            "end",
            step=loop.step,
            reason="done",
            seconds=round(loop.meter.seconds, 2),
            tokens_per_second=round(loop.meter.tokens / loop.meter.seconds, 1) if loop.meter.seconds else 0.0,
        )
    result = _result(run, config, time.monotonic() - start)
    console.say(f"训练完成: {result.steps} 步, {duration(result.seconds)}, 结果在 {output}")
    return result


def _restore(loop: Loop, run: RunFolder, events: EventLog, answers: EventLog) -> None:
    """Put the loop where the newest good checkpoint stands, or at a clean step 0."""
    checkpoint = checkpoints.newest_checkpoint(run)
    if checkpoint is None:
        events.truncate(0)
        answers.truncate(0)
        events.write("start", version=__version__)
        return
    loop.restore(checkpoint)
    events.write("resume", step=checkpoint.step, version=__version__)
    if loop.best is not None and (run.checkpoints / f"step-{loop.best[1]:06d}").is_dir():
        checkpoints.mark_best(run, loop.best[1])
    console.say(f"从第 {checkpoint.step} 步的检查点接着练")


def _take_best(loop: Loop, run: RunFolder) -> None:
    """Go back to the weights with the lowest held-out loss, if they are not the last."""
    best = checkpoints.best_checkpoint(run)
    if best is not None and best.step != loop.step:
        loop.restore_weights(best)
        console.say(f"取验证损失最低的第 {best.step} 步")


def _keep_good(
    loop: Loop, config: RunConfig, run: RunFolder, material: Material, model: nn.Module, precision: Precision
) -> None:
    """Write what the last good checkpoint of a run that failed has learned: the hours before are not lost."""
    good = checkpoints.checkpoint_at(run, loop.good_step)
    if good is not None:
        loop.restore_weights(good)
        loop.stepper.ema.take()
        output = _write_output(config, run, material, model, precision)
        console.say(f"第 {good.step} 步的结果写在 {output}, 可以先用它")


def _write_output(
    config: RunConfig, run: RunFolder, material: Material, model: nn.Module, precision: Precision
) -> Path:
    """``adapter/`` or ``model/``, with tokenizer and template inside."""
    from hantune.models.adapter import save_adapter
    from hantune.models.quantize import quantization_of
    from hantune.models.save import save_model

    info: dict[str, Any] = {"data": {"fingerprint": material.prepared.fingerprint, "train": len(material.train)}}
    shared: dict[str, Any] = {
        "base": config.model.path,
        "tokenizer": material.tokenizer,
        "template": material.template,
        "info": info,
    }
    if config.adapter.kind == "lora":
        if quantization := quantization_of(config.model.load, precision.weights):
            info["quantization"] = quantization.as_dict()
        save_adapter(model, run.adapter, **shared)
        return run.adapter
    save_model(model, run.model, **shared)
    return run.model


def _finished(run: RunFolder, config: RunConfig) -> TrainResult | None:
    """The result of a run that came to its end and still has its adapter or model."""
    events = read_events(run.events)
    if events and events[-1]["event"] == "end" and _output(run, config).is_dir():
        return _result(run, config, 0.0)
    return None


def _output(run: RunFolder, config: RunConfig) -> Path:
    return run.adapter if config.adapter.kind == "lora" else run.model


def _result(run: RunFolder, config: RunConfig, seconds: float) -> TrainResult:
    """What the event log of a finished run says."""
    end = read_events(run.events, "end")[-1]
    losses = {event["step"]: event["loss"] for event in read_events(run.events, "eval")}
    best = checkpoints.best_checkpoint(run)
    kept = best.step if config.train.final == "best" and best is not None else end["step"]
    return TrainResult(
        run=run,
        output=_output(run, config),
        steps=end["step"],
        loss_before=losses.get(0),
        loss_after=losses.get(kept),
        best_step=None if best is None else best.step,
        tokens_per_second=end["tokens_per_second"],
        seconds=seconds,
    )
