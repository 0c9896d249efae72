"""The flags of ``run_finetune.sh``, joined with a configuration file, become a job. A flag beats the file."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hantune.log import console
from hantune.workflow.demo import demo, demo_text
from hantune.workflow.embedded import persona_dialogues, teach_base
from hantune.workflow.finetune import Job, JobResult, default_output, finetune, merge_line


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
        "reuse_prepared": flags.skip_data_prep,
        "config_file": flags.config_file,
        "overrides": flags.overrides,
    }
    output = flags.output or default_output()
    if flags.model is None and flags.dataset is None and not flags.skip_data_prep:
        result = demo(output, **settings)
        return result.as_dict(), demo_text(result)
    if flags.model is None:
        console.warn("没有指定底座, 用当场造的小模型: 只能看流程, 答不好. 真正用请加 --model_name_or_path")
    model = flags.model or str(teach_base(output.with_name(f"{output.name}-base")))
    job = Job(
        model=model,
        dataset=flags.dataset or str(persona_dialogues()),
        output=output,
        local_model=flags.local_model,
        **settings,
    )
    done = finetune(job)
    return done.as_dict(), job_text(done)


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
    named = dict(kit.overrides)
    output, model = named.pop("train.output_dir", None), named.pop("model.path", None)
    dataset = kit.data.get("dataset_path") or kit.data.get("dataset_name") or named.pop("data.path", None)
    return replace(
        flags,
        config_file=None,
        dataset=flags.dataset or dataset,
        model=flags.model or model,
        local_model=flags.local_model or bool(kit.data.get("use_local_model") or kit.data.get("local_model")),
        max_samples=flags.max_samples or kit.data.get("max_samples"),
        max_turns=flags.max_turns or kit.data.get("max_turns"),
        output=flags.output or (Path(output) if output else None),
        overrides={**named, **flags.overrides},
    )


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
    lines.append("")
    if training.loss_before is not None and training.loss_after is not None:
        lines.append(f"验证损失  {training.loss_before:.3f} -> {training.loss_after:.3f}")
    if result.merge is not None:
        lines.append(merge_line(result.merge))
    lines += [
        f"适配器    {training.output}",
        f"合并后    {run.merged}",
        f"报告      {result.report}",
        f"聊一聊    hantune chat {run.root}",
    ]
    return "\n".join(lines)
