"""The flags of ``run_finetune.sh``, joined with a configuration file, become a job. A flag beats the file."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hantune.errors import ConfigError
from hantune.log import console
from hantune.paths import RunFolder
from hantune.workflow.demo import PERSONA, demo, demo_text
from hantune.workflow.embedded import persona_dialogues, teach_base, unused_folder
from hantune.workflow.finetune import (
    Job,
    JobResult,
    check_dataset,
    default_output,
    finetune,
    loss_line,
    merge_line,
    values_of,
)


@dataclass(frozen=True, kw_only=True)
class Flags:
    """What was typed; None = not typed. ``overrides`` are dotted configuration keys."""

    dataset: str | None = None
    model: str | None = None
    local_model: bool = False
    max_samples: int | None = None
    max_turns: int | None = None
    config_file: Path | None = None
    skip_data_prep: bool = False
    output: Path | None = None
    overrides: dict[str, Any] = field(default_factory=dict)


def perform(flags: Flags) -> tuple[dict[str, Any], str]:
    """Do the job; returns its result and the text for people.

    Raises: ConfigError for the file, and what ``finetune`` raises.
    """
    flags = with_file(flags)
    settings: dict[str, Any] = {
        "max_samples": flags.max_samples,
        "max_turns": flags.max_turns,
        "config_file": flags.config_file,
        "overrides": flags.overrides,
    }
    output = flags.output or default_output()
    persona = RunFolder(output / PERSONA).prepared
    dataset = str(prepared_earlier(flags.dataset, output)) if flags.skip_data_prep else flags.dataset
    if flags.model is None and dataset in (None, str(persona)):
        result = demo(output, **settings, **({"dataset": dataset} if dataset else {}))
        return result.as_dict(), demo_text(result)
    dataset = dataset or str(persona_dialogues())
    check_dataset(dataset)
    model = flags.model or _small_base(flags, output)
    done = finetune(Job(model=model, dataset=dataset, output=output, local_model=flags.local_model, **settings))
    return done.as_dict(), job_text(done)


def prepared_earlier(dataset: str | None, output: Path) -> Path:
    """What an earlier job prepared (``--skip_data_prep``): the dataset itself, or under the output folder.

    Raises: ConfigError ``finetune.nothing-prepared``.
    """
    from hantune.data.prepared import is_prepared

    places = [RunFolder(output).prepared, RunFolder(output / PERSONA).prepared]
    for place in ([Path(dataset).expanduser()] if dataset else []) + places:
        if is_prepared(place):
            return place
    raise ConfigError(
        "finetune.nothing-prepared",
        "要跳过整理, 但找不到整理好的数据",
        place=str(places[0]),
        hint="去掉 --skip_data_prep, 或用 --output_dir 指向上次的文件夹",
    )


def _small_base(flags: Flags, output: Path) -> str:
    """The embedded base, taught anew beside the output."""
    console.warn("没有指定底座, 用当场造的小模型: 只能看流程, 答不好. 真正用请加 --model_name_or_path")
    device = {**values_of(flags.config_file), **flags.overrides}.get("train.device", "auto")
    return str(teach_base(unused_folder(output.with_name(f"{output.name}-base")), device=device))


def with_file(flags: Flags) -> Flags:
    """The flags with what ``--config_file`` says where no flag was typed: the LCCC kit's JSON, or our own YAML.

    Raises: ConfigError of ``config.kits`` or ``config.io``.
    """
    from hantune.config.io import load_config
    from hantune.config.kits import read_kit

    if flags.config_file is None:
        return flags
    if flags.config_file.suffix.lower() != ".json":
        config = load_config(flags.config_file).config
        return replace(
            flags,
            dataset=flags.dataset or config.data.path or None,
            model=flags.model or config.model.path or None,
            output=flags.output or (Path(config.train.output_dir) if config.train.output_dir else None),
        )
    kit = read_kit(flags.config_file)
    for note in kit.notes:
        console.warn(note)
    named = _without_fp16_on_cpu({**kit.overrides}, flags.overrides)
    output, model = named.pop("train.output_dir", None), named.pop("model.path", None)
    dataset = kit.data.get("dataset_path") or kit.data.get("dataset_name") or named.pop("data.path", None)
    return replace(
        flags,
        config_file=None,
        dataset=flags.dataset or dataset,
        model=flags.model or model,
        local_model=flags.local_model or bool(kit.data.get("use_local_model") or kit.data.get("local_model")),
        max_samples=kit.data.get("max_samples") if flags.max_samples is None else flags.max_samples,
        max_turns=kit.data.get("max_turns") if flags.max_turns is None else flags.max_turns,
        output=flags.output or (Path(output) if output else None),
        overrides={**named, **flags.overrides},
    )


def _without_fp16_on_cpu(named: dict[str, Any], typed: dict[str, Any]) -> dict[str, Any]:
    """The kit's settings without ``fp16``, which it has always on, where the CPU will compute."""
    from hantune.train.precision import choose_device

    device = typed.get("train.device", named.get("train.device", "auto"))
    if named.get("train.precision") == "fp16" and choose_device(device).type == "cpu":
        console.warn("没有用 fp16 = true: 要用 CPU 算, 计算精度由 hantune 选")
        del named["train.precision"]
    return named


def job_text(result: JobResult) -> str:
    """What a person reads when the job is done."""
    training, run = result.training, result.training.run
    lines = ["", "留出的对话  (问题 / 参考 / 调之前 / 调之后)"]
    pairs = zip(result.evaluation["before"]["answers"], result.evaluation["after"]["answers"], strict=True)
    for before, after in list(pairs)[:5]:
        lines += [
            f"  问: {after['prompt']}",
            f"    参考: {after['reference']}",
            f"    前: {before['answer']}",
            f"    后: {after['answer']}",
        ]
    lines += ["", *loss_line(training), merge_line(result.merge), f"结果      {training.output}"]
    if result.merge is not None:
        lines.append(f"合并后    {run.merged}")
    lines += [
        f"报告      {result.report}",
        f"聊一聊    hantune chat {run.root}",
    ]
    return "\n".join(lines)
