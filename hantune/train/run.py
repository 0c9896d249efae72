"""One run, from configuration to adapter: the recipe.

    config ─> material (data, mask checked, tokens) ─> model + LoRA ─> loop ─> adapter/ or model/
"""

from __future__ import annotations

import math
import os
import platform
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hantune import __version__
from hantune.config.schema import RunConfig
from hantune.errors import RunError
from hantune.log import EventLog, console, duration, read_events
from hantune.paths import RunFolder, free_run_folder, write_file, write_json
from hantune.train import checkpoint as checkpoints
from hantune.train.loop import Loop
from hantune.train.parallel import make_accelerator
from hantune.train.plan import Plan, make_plan
from hantune.train.precision import Precision, choose_device, choose_precision
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

DEFAULT_THREADS = torch.get_num_threads()
"""Cores without hyper-threads, as torch found them at its start: an earlier run of this process may have set others."""


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
    from hantune.config.io import dump_config, require_complete

    require_complete(config)
    run = free_run_folder(Path(config.train.output_dir or time.strftime("runs/%Y%m%d-%H%M%S")).expanduser())
    with run.lock():
        material = open_material(config, run)
        _write_start(run, config, dump_config(config, comments=True))
        with console.copied_to(run.log):
            return _perform(config, run, material, recorded=None)


def resume(folder: Path) -> TrainResult:
    """Go on with a run from its newest checkpoint that verifies (from the start if there is none).

    Raises: RunError ``run.not-a-run``; ConfigError ``run.changed``; and what ``train`` raises.
    """
    import json

    from hantune.config.io import load_config

    run = RunFolder(folder)
    if not run.is_run:
        raise RunError("run.not-a-run", "这个文件夹里没有一次运行", place=str(folder), hint="ls runs/  看看有哪些")
    config = load_config(run.config).config
    with run.lock():
        material = open_material(config, run)
        recorded = json.loads(run.plan.read_bytes()) if run.plan.is_file() else None
        if recorded is not None:
            check_same_material(material, config, recorded["fingerprints"], run)
        with console.copied_to(run.log):
            return _perform(config, run, material, recorded=recorded)


def dry_run(config: RunConfig, scratch: Path) -> dict[str, Any]:
    """The plan of a run that is not started: data checked, steps counted, precision chosen. Writes to ``scratch``."""
    from hantune.config.io import require_complete

    require_complete(config)
    run = RunFolder(scratch)
    material = open_material(config, run)
    device = choose_device(config.train.device)
    model, precision = _make_model(config, material, device)
    plan = _plan(config, material, model)
    return {**_describe(config, material, model, plan, precision, device), "check": material.check.as_dict()}


def _write_start(run: RunFolder, config: RunConfig, text: str) -> None:
    """The files that make a folder a run; ``events.jsonl`` comes last, as its presence says the rest is whole."""
    import accelerate
    import peft
    import transformers

    run.root.mkdir(parents=True, exist_ok=True)
    write_file(run.config, text)
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


def _perform(config: RunConfig, run: RunFolder, material: Material, *, recorded: dict[str, Any] | None) -> TrainResult:
    """Train from the newest good checkpoint (or step 0) to the end and write what was learned."""
    start = time.monotonic()
    device = choose_device(config.train.device)
    torch.set_num_threads(recorded["threads"] if recorded else config.train.threads or DEFAULT_THREADS)
    model, precision = _make_model(config, material, device, recorded["precision"]["name"] if recorded else None)
    plan = _plan(config, material, model)
    if recorded is None:
        description = _describe(config, material, model, plan, precision, device)
        write_mask_sample(material, run)
        write_json(run.plan, {**description, "fingerprints": fingerprints(material, config)})
    _say_plan(plan, precision, model)
    accelerator = make_accelerator(device, precision)
    model = accelerator.prepare_model(model) if device.type != "cpu" else model
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
            plan=plan,
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
        loop.train()
        if config.train.final == "best":
            _take_best(loop, run)
        output = _write_output(config, run, material, model)
        events.write(
            "end",
            step=loop.step,
            reason="done",
            seconds=round(loop.meter.seconds, 2),
            tokens_per_second=round(loop.meter.tokens / loop.meter.seconds, 1) if loop.meter.seconds else 0.0,
        )
    return _result(run, output, loop, time.monotonic() - start)


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


def _make_model(
    config: RunConfig, material: Material, device: torch.device, precision_name: Any = None
) -> tuple[nn.Module, Precision]:
    """The model on its device with what is learned set up, and the precision it computes in."""
    from hantune.models.adapter import attach_lora
    from hantune.models.load import load_model, require_rows

    is_adapter = config.adapter.kind == "lora"
    precision = choose_precision(
        precision_name or config.train.precision,
        device,
        is_adapter=is_adapter,
        num_parameters=_num_parameters(config),
    )
    model: nn.Module = load_model(
        config.model.path, dtype=precision.weights, device=str(device), revision=config.model.revision
    )
    require_rows(model, material.tokenizer, place=config.model.tokenizer or config.model.path)
    if config.train.activation_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})  # type: ignore[operator]
    if is_adapter:
        model = attach_lora(model, config.adapter, seed=config.train.seed)
    return model, precision


def _num_parameters(config: RunConfig) -> int:
    """Numbers in a model folder's weights, read from the headers."""
    from hantune.models.hub import local_folder
    from hantune.models.shards import tensor_places

    folder = local_folder(config.model.path, revision=config.model.revision)
    return sum(math.prod(spec.shape) for _, spec in tensor_places(folder).values())


def _plan(config: RunConfig, material: Material, model: nn.Module) -> Plan:
    from hantune.models.call import bare_model, takes

    can_pack = takes(bare_model(model), "position_ids")
    return make_plan(config, num_samples=len(material.train), num_val=len(material.val), can_pack=can_pack)


def _describe(
    config: RunConfig, material: Material, model: nn.Module, plan: Plan, precision: Precision, device: torch.device
) -> dict[str, Any]:
    """What ``plan.json`` holds."""
    learned = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {
        **plan.as_dict(),
        "precision": precision.as_dict(),
        "device": str(device),
        "threads": torch.get_num_threads(),
        "parameters": {"total": sum(p.numel() for p in model.parameters()), "learned": learned},
        "tokens": int(material.train.lengths.sum()),
        "dropped": material.train.dropped,
        "template": material.template.name,
    }


def _say_plan(plan: Plan, precision: Precision, model: nn.Module) -> None:
    learned = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    console.say(f"数据  训练 {plan.num_samples} 条  验证 {plan.num_val} 条  每步 {plan.samples_per_step} 条")
    console.say(f"参数  共 {total / 1e6:.1f} 百万, 其中学习 {learned / 1e6:.2f} 百万")
    console.say(f"精度  {precision.name}: {precision.reason}")
    console.say(f"步数  {plan.total_steps}, 每 {plan.eval_every} 步评测, 每 {plan.save_every} 步保存")


def _take_best(loop: Loop, run: RunFolder) -> None:
    """Go back to the weights with the lowest held-out loss, if they are not the last."""
    best = checkpoints.best_checkpoint(run)
    if best is not None and best.step != loop.step:
        checkpoints.restore_weights(loop.parameters, best.tensors("weights"))
        console.say(f"取验证损失最低的第 {best.step} 步")


def _write_output(config: RunConfig, run: RunFolder, material: Material, model: nn.Module) -> Path:
    """``adapter/`` or ``model/``, with tokenizer and template inside."""
    from hantune.models.adapter import save_adapter
    from hantune.models.save import save_model

    info = {"data": {"fingerprint": material.prepared.fingerprint, "train": len(material.train)}}
    shared: dict[str, Any] = {
        "base": config.model.path,
        "tokenizer": material.tokenizer,
        "template": material.template,
        "info": info,
    }
    if config.adapter.kind == "lora":
        save_adapter(model, run.adapter, **shared)
        return run.adapter
    save_model(model, run.model, **shared)
    return run.model


def _result(run: RunFolder, output: Path, loop: Loop, seconds: float) -> TrainResult:
    losses = {event["step"]: event["loss"] for event in read_events(run.events, "eval")}
    console.say(f"训练完成: {loop.step} 步, {duration(seconds)}, 结果在 {output}")
    return TrainResult(
        run=run,
        output=output,
        steps=loop.step,
        loss_before=losses.get(0),
        loss_after=losses.get(loop.step),
        best_step=None if loop.best is None else loop.best[1],
        tokens_per_second=loop.meter.tokens / loop.meter.seconds if loop.meter.seconds else 0.0,
        seconds=seconds,
    )
