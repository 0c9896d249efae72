"""``hantune finetune``: the flags of ``run_finetune.sh``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hantune.cli.frame import Answer, command, new_app

app = new_app("一条命令做完")


@command(app, "finetune")
def finetune(
    dataset_name: Annotated[str | None, typer.Option("--dataset_name", help="数据文件或文件夹; 空 = 内置对话")] = None,
    model_name_or_path: Annotated[
        str | None, typer.Option("--model_name_or_path", help="底座模型; 空 = 当场造一个小的")
    ] = None,
    local_model: Annotated[bool, typer.Option("--local_model", help="模型一定在本地, 不去网上找")] = False,
    use_cpu: Annotated[bool, typer.Option("--use_cpu", help="只用 CPU")] = False,
    max_samples: Annotated[int | None, typer.Option("--max_samples", min=1, help="最多用多少条对话")] = None,
    max_turns: Annotated[int | None, typer.Option("--max_turns", min=1, help="每段对话最多几轮")] = None,
    config_file: Annotated[
        Path | None, typer.Option("--config_file", help="hantune 的 YAML, 或 LCCC 工具的 finetune_config.json")
    ] = None,
    skip_data_prep: Annotated[bool, typer.Option("--skip_data_prep", help="用 output_dir 里上次整理好的数据")] = False,
    learning_rate: Annotated[float | None, typer.Option("--learning_rate", help="最大学习率")] = None,
    num_train_epochs: Annotated[float | None, typer.Option("--num_train_epochs", help="训练几遍")] = None,
    per_device_train_batch_size: Annotated[
        int | None, typer.Option("--per_device_train_batch_size", help="每个小批几条")
    ] = None,
    gradient_accumulation_steps: Annotated[
        int | None, typer.Option("--gradient_accumulation_steps", help="累积几个小批更新一次")
    ] = None,
    output_dir: Annotated[Path | None, typer.Option("--output_dir", help="放结果的文件夹")] = None,
) -> Answer:
    """一条命令: 整理, 训练, 评测, 合并, 报告. 不带参数时用内置的小模型和对话.

    例子:  hantune finetune --use_cpu --dataset_name 对话.jsonl --model_name_or_path ./llama --local_model
    """
    from hantune.workflow.flags import Flags, perform

    flags: dict[str, Any] = {
        "train.learning_rate": learning_rate,
        "train.epochs": num_train_epochs,
        "train.batch_size": per_device_train_batch_size,
        "train.accumulation_steps": gradient_accumulation_steps,
        "train.device": "cpu" if use_cpu else None,
    }
    result, text = perform(
        Flags(
            dataset=dataset_name,
            model=model_name_or_path,
            local_model=local_model,
            max_samples=max_samples,
            max_turns=max_turns,
            config_file=config_file,
            skip_data_prep=skip_data_prep,
            output=output_dir,
            overrides={key: value for key, value in flags.items() if value is not None},
        )
    )
    return Answer(result=result, text=text)
