"""One run in LLaMA-Factory: the function behind ``llamafactory-cli train``, from a dictionary of its arguments.

    python llamafactory_run.py TASK.json
"""

from __future__ import annotations

import sys
import types
from itertools import groupby
from pathlib import Path
from typing import Any

from meter import Meter, agreement, read_task


def arguments(task: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a row; what a row leaves out stays LLaMA-Factory's default."""
    row = task["settings"]
    packed = row.get("layout") == "packed"
    batch = task["rows_per_step"] if packed else min(row.get("batch", 8), task["dialogues_per_step"])
    found = {
        "stage": "sft",
        "do_train": True,
        "use_cpu": True,
        "model_name_or_path": task["model"],
        "finetuning_type": "lora",
        "lora_target": "all",
        "lora_rank": 8,
        "lora_alpha": 16,
        "dataset": "workload",
        "dataset_dir": task["data"],
        "template": "workload",
        "cutoff_len": task["row_tokens"] if packed else task["max_tokens"],
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": 1 if packed else task["dialogues_per_step"] // batch,
        "learning_rate": task["learning_rate"],
        "lr_scheduler_type": task["schedule"],
        "max_steps": task["steps"],
        "seed": task["seed"],
        "output_dir": task["scratch"],
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
    }
    if packed:
        found |= {"packing": True, "neat_packing": not row.get("leaks", False)}
    if row.get("layout") == "sorted":
        found |= {"train_sampling_strategy": "group_by_length"}
    if "precision" in row:
        found |= {"bf16": row["precision"] != "float32"}
    if "checkpointing" in row:
        found |= {"disable_gradient_checkpointing": not row["checkpointing"]}
    return found


def register_template() -> None:
    """Llama 2's, with the blanks around the answer that Meta's code writes and LLaMA-Factory's own leaves out."""
    from llamafactory.data.template import StringFormatter, register_template

    register_template(
        name="workload",
        format_user=StringFormatter(slots=[{"bos_token"}, "[INST] {{content}} [/INST]"]),
        format_assistant=StringFormatter(slots=[" {{content}} ", {"eos_token"}]),
    )


def documents(dataset: Any) -> Any:
    """(ids, labels) of each document of a prepared data set; a packed row numbers its documents in the mask, from 1."""
    for row in dataset:
        start = 0
        for number, run in groupby(row["attention_mask"]):
            end = start + len(list(run))
            if number:
                yield row["input_ids"][start:end], row["labels"][start:end]
            start = end


def main() -> None:
    task = read_task()
    import torch
    from trainer import Clock, watch
    from transformers import AutoTokenizer

    # It is imported even for text (environments.py); after transformers, which would take it for the real one.
    sys.modules["torchaudio"] = types.ModuleType("torchaudio")
    from llamafactory.train import tuner
    from llamafactory.train.sft import workflow

    torch.set_num_threads(task["threads"])
    register_template()
    meter = Meter()
    watch(meter, AutoTokenizer.from_pretrained(task["model"]))
    get_dataset = workflow.get_dataset

    def noting_dataset(*args: Any, **kwargs: Any) -> Any:
        module = get_dataset(*args, **kwargs)
        meter.notes["documents"] = agreement(documents(module["train_dataset"]), Path(task["data"]) / "tokens.json")
        return module

    workflow.get_dataset = noting_dataset
    tuner.run_exp(arguments(task), callbacks=[Clock(meter)])
    meter.notes["adapter"] = task["scratch"]
    meter.write(task)


if __name__ == "__main__":
    main()
