"""One run in TRL, as its documentation has it: conversations, a chat template with generation marks, SFTTrainer.

    python trl_run.py TASK.json
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from meter import Meter, agreement, read_task

CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{%- if message['role'] == 'user' %}{{ bos_token + '[INST] ' + message['content'] + ' [/INST]' }}"
    "{%- else %}{% generation %}{{ ' ' + message['content'] + ' ' + eos_token }}{% endgeneration %}"
    "{%- endif %}"
    "{%- endfor %}"
)
"""Llama 2's, as hantune's; TRL wants marks around what is learned."""


def settings(task: dict[str, Any]) -> dict[str, Any]:
    """The SFTConfig of a row; what a row leaves out stays TRL's default."""
    row = task["settings"]
    packed = row.get("layout") == "packed"
    per_step = task["rows_per_step"] if packed else task["dialogues_per_step"]
    batch = min(row.get("rows", per_step) if packed else row.get("batch", 8), per_step)
    found = {
        "output_dir": task["scratch"],
        "assistant_only_loss": True,
        "use_cpu": True,
        "max_length": task["row_tokens"] if packed else task["max_tokens"],
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": per_step // batch,
        "learning_rate": task["learning_rate"],
        "lr_scheduler_type": task["schedule"],
        "max_steps": task["steps"],
        "seed": task["seed"],
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    if packed:
        found |= {"packing": True}
    if row.get("layout") == "flat":
        found |= {"padding_free": True, "max_length": None}
    if row.get("layout") == "sorted":
        found |= {"train_sampling_strategy": "group_by_length"}
    if "precision" in row:
        found |= {"bf16": row["precision"] != "float32"}
    if row.get("precision") == "bf16":
        found |= {"model_init_kwargs": {"dtype": "bfloat16"}}
    if "checkpointing" in row:
        found |= {"gradient_checkpointing": row["checkpointing"]}
    return found


def documents(dataset: Any) -> Any:
    """(ids, labels) of each document of a prepared data set, packed or not."""
    for row in dataset:
        start = 0
        for length in row.get("seq_lengths") or [len(row["input_ids"])]:
            part = slice(start, start + length)
            yield row["input_ids"][part], row["labels"][part]
            start += length


def main() -> None:
    task = read_task()
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from trainer import Clock, watch
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    torch.set_num_threads(task["threads"])
    tokenizer = AutoTokenizer.from_pretrained(task["model"])
    tokenizer.chat_template = CHAT_TEMPLATE
    meter = Meter()
    watch(meter, tokenizer)
    data = Path(task["data"])
    trainer = SFTTrainer(
        model=task["model"],
        args=SFTConfig(**settings(task)),
        train_dataset=Dataset.from_list(json.loads((data / "messages.json").read_bytes())),
        processing_class=tokenizer,
        peft_config=LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16, target_modules="all-linear"),
        callbacks=[Clock(meter)],
    )
    meter.notes["documents"] = agreement(documents(trainer.train_dataset), data / "tokens.json")
    trainer.train()
    meter.notes["adapter"] = f"{task['scratch']}/adapter"
    trainer.save_model(meter.notes["adapter"])
    meter.write(task)


if __name__ == "__main__":
    main()
