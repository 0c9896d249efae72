"""One run, from configuration to adapter: the recipe.

    config ─> material (data, mask checked, tokens) ─> model + LoRA ─> loop ─> adapter/ or model/
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from hantune import __version__
from hantune.config.schema import RunConfig
from hantune.errors import RunError, TrainError
from hantune.log import EventLog, JsonLines, console, duration
from hantune.paths import RunFolder, free_run_folder, quoted, write_file, write_json
from hantune.train import checkpoint as checkpoints
from hantune.train.loop import Loop
from hantune.train.meter import Meter
from hantune.train.outcome import TrainResult, finished_result, result_of, say_end
from hantune.train.parallel import make_accelerator
from hantune.train.planning.duration import MOST_SHARE, Duration, calibrate, expected_duration
from hantune.train.precision import Precision
from hantune.train.probe import Prober
from hantune.train.ready import DEFAULT_THREADS, Ready, get_ready, require_libraries
from hantune.train.remedy import Remedy
from hantune.train.setup import (
    Changes,
    Material,
    changed_settings,
    check_same_material,
    differences,
    fingerprints,
    open_material,
    settings_of,
    told,
    write_mask_sample,
)
from hantune.train.trackers import Trackers
from hantune.train.trainer_log import FILE as TRAINER_LOG
from hantune.train.trainer_log import TrainerLog
from hantune.train.watch import Watch

if TYPE_CHECKING:
    from accelerate import Accelerator


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


def resume(folder: Path, overrides: Sequence[str] = ()) -> TrainResult:
    """Go on with a run from its newest checkpoint that verifies (from the start if there is none).

    ``overrides``: ``train.batch_size=4`` and what else may change without being another run; they are kept.
    Raises: RunError ``run.not-a-run``; ConfigError ``run.changed``; and what ``train`` raises.
    """
    from hantune.config.io import dump_config, load_config

    run = RunFolder(folder)
    if not run.is_run:
        hint = f"hantune train {quoted(folder)}" if folder.is_file() else "ls runs/  看看有哪些"
        raise RunError("run.not-a-run", "这不是一个运行文件夹", place=str(folder), hint=hint)
    config = _with_absolute_paths(load_config(run.config, overrides).config)
    with run.lock():
        recorded = json.loads(run.plan.read_bytes())
        changes = changed_settings(config, recorded["fingerprints"], run)
        if finished := finished_result(run, config):
            console.say(f"这次运行已经结束 (练了 {finished.steps} 步), 没有要接着练的")
            return finished
        material = open_material(config, run)
        check_same_material(material, recorded["fingerprints"], run)
        with console.copied_to(run.log):
            checkpoint = checkpoints.newest_checkpoint(run)
            if "train.threads" in changes:
                recorded["threads"] = config.train.threads or DEFAULT_THREADS
            if "train.activation_checkpointing" in changes:
                del recorded["recompute"]
            ready = get_ready(config, material, recorded, None if checkpoint is None else checkpoint.state)
            _tell_changes(changes, run, recorded, ready)
            write_json(run.plan, _plan(material, ready, config))
            write_file(run.config, dump_config(config, comments=True))
            return _perform(config, run, material, ready, checkpoint)


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
    from hantune.config.io import dump_config

    write_file(run.config, dump_config(config, comments=True))
    write_mask_sample(material, run)
    write_json(run.plan, _plan(material, ready, config))
    write_json(run.env, {"versions": _versions(), "system": platform.platform(), "cpus": os.cpu_count()})
    write_file(run.events, "")


def _plan(material: Material, ready: Ready, config: RunConfig) -> dict[str, Any]:
    """What ``plan.json`` holds: the plan, and what a run that goes on is compared with."""
    return {**ready.as_dict(material), "fingerprints": {**settings_of(config), **fingerprints(material)}}


def _versions() -> dict[str, str]:
    import accelerate
    import peft
    import transformers

    return {
        "hantune": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
        "accelerate": accelerate.__version__,
    }


def _tell_changes(changes: Changes, run: RunFolder, recorded: dict[str, Any], ready: Ready) -> None:
    """What is not as it was when the run began, and what follows from it."""
    for name, change in changes.items():
        console.say(f"改了  {name}  {told(change)}")
    if ready.plan.samples_per_step != recorded["samples_per_step"]:
        console.say(
            f"每步 {recorded['samples_per_step']} 条改成 {ready.plan.samples_per_step} 条: 还没学的样本重新分步, "
            "每条在一轮里仍然只学一次, 学习率按学过的样本接着走"
        )
    versions = json.loads(run.env.read_bytes())["versions"]
    others = [f"{name} {told(change)}" for name, change in differences(_versions(), versions).items()]
    if str(ready.device) != recorded["device"]:
        others.append(f"设备 {recorded['device']} -> {ready.device}")
    if others:
        console.warn(f"和开始时不同: {', '.join(others)}; 接着练的结果在误差之内一样, 不保证逐位相同")


def _perform(
    config: RunConfig,
    run: RunFolder,
    material: Material,
    ready: Ready,
    checkpoint: checkpoints.Checkpoint | None = None,
) -> TrainResult:
    """Train from a checkpoint (or step 0) to the end and write what was learned."""
    start = time.monotonic()
    ready.say()
    accelerator = make_accelerator(ready.device, ready.precision)
    model = accelerator.prepare_model(ready.model) if ready.device.type != "cpu" else ready.model
    checkpoints.sweep_unfinished(run)
    expected = None if checkpoint else _expect(config, material, ready, model, accelerator)
    with (
        Remedy(run).for_full_disks(),
        closing(EventLog(run.events)) as events,
        closing(EventLog(run.samples)) as answers,
        closing(TrainerLog(run.root / TRAINER_LOG)) as trainer_log,
        Trackers(config.log.trackers, run, settings_of(config)) as trackers,
    ):
        watch = Watch(material, model, accelerator, events, trackers)
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
            trainer_log=trainer_log,
            evaluate=watch,
            meter=Meter(ready.floor, ready.device),
            ask=Prober(ready.probes, ready.plan, material, model, run, events, answers, trackers),
            report=trackers.log,
            log_every=config.log.every_steps,
            is_float32=ready.precision.is_wide,
        )
        _restore(loop, run, events, (answers, trainer_log), checkpoint, expected)
        try:
            loop.train()
        except TrainError as error:
            events.write("stop", step=loop.step, **error.as_dict())
            _keep_good(loop, config, run, material, model, ready.precision)
            raise
        kept = _take_best(loop, run, watch) if config.train.final == "best" else loop.step
        loop.stepper.ema.take()
        _write_output(config, run, material, model, ready.precision)
        events.write(
            "end",
            step=loop.step,
            kept=kept,
            reason="early-stop" if loop.step < ready.plan.total_steps else "done",
            **loop.meter.overall(),
        )
    result = result_of(run, config, time.monotonic() - start)
    say_end(run, result)
    return result


def _expect(
    config: RunConfig, material: Material, ready: Ready, model: nn.Module, accelerator: Accelerator
) -> Duration | None:
    """How long the run will take, and told: by trials where they are worth their time, else by an estimate."""
    found = None
    if ready.outlook is not None:
        trials = calibrate(config, material, ready.plan, model, accelerator, most_share=MOST_SHARE)
        found = trials or expected_duration(ready.outlook)
    if found is not None:
        how = "按试跑的几个小批" if found.is_measured else "只按矩阵乘法的速度, 可能差一倍"
        console.say(f"用时  约 {duration(found.total)} ({how})")
    return found


def _restore(
    loop: Loop,
    run: RunFolder,
    events: EventLog,
    logs: Sequence[JsonLines],
    checkpoint: checkpoints.Checkpoint | None,
    expected: Duration | None,
) -> None:
    """Put the loop where a checkpoint stands, or at a clean step 0."""
    if checkpoint is None:
        for log in (events, *logs):
            log.truncate(0)
        events.write("start", version=__version__, expected=None if expected is None else expected.as_dict())
        return
    loop.restore(checkpoint)
    events.write("resume", step=checkpoint.step, version=__version__, samples_per_step=loop.plan.samples_per_step)
    if loop.best.step is not None and (run.checkpoints / f"step-{loop.best.step:06d}").is_dir():
        checkpoints.mark_best(run, loop.best.step)
    console.say(f"从第 {checkpoint.step} 步的检查点接着练")


def _take_best(loop: Loop, run: RunFolder, watch: Watch) -> int:
    """Go back to the best weights, if they are not the last; returns their step. Their held-out loss is known then."""
    best = checkpoints.best_checkpoint(run)
    if best is None or best.step == loop.step:
        return loop.step
    loop.restore_weights(best)
    console.say(f"取最好的第 {best.step} 步")
    if best.step % loop.plan.eval_every:
        with loop.stepper.ema.taken():
            watch(best.step)
    return best.step


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
