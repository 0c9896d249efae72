"""What other tools call our settings, and which of our names a misspelt one probably means."""

from __future__ import annotations

import difflib
import re

from hantune.config.fields import sections, settings

OTHER_NAMES: dict[str, str] = {
    # model
    "model_name_or_path": "model.path",
    "base_model": "model.path",
    "model_path": "model.path",
    "model_revision": "model.revision",
    "tokenizer_name": "model.tokenizer",
    "tokenizer_name_or_path": "model.tokenizer",
    "tokenizer_path": "model.tokenizer",
    "load_in_4bit": "model.load",
    "load_in_8bit": "model.load",
    "load_in_bits": "model.load",
    "quantization_bit": "model.load",
    "quant_bits": "model.load",
    "quantization": "model.load",
    "quantize": "model.load",
    # data
    "dataset": "data.path",
    "datasets": "data.path",
    "dataset_name": "data.path",
    "dataset_path": "data.path",
    "data_path": "data.path",
    "train_file": "data.path",
    "max_train_samples": "data.max_samples",
    "cutoff_len": "data.max_tokens",
    "max_length": "data.max_tokens",
    "max_seq_len": "data.max_tokens",
    "max_seq_length": "data.max_tokens",
    "model_max_length": "data.max_tokens",
    "sequence_len": "data.max_tokens",
    "block_size": "data.max_tokens",
    "val_size": "data.val_share",
    "val_set_size": "data.val_share",
    "val_set_rate": "data.val_share",
    "validation_split_percentage": "data.val_share",
    # template
    "template": "template.name",
    "chat_template": "template.name",
    "conversation_template": "template.name",
    "prompt_template": "template.name",
    "default_system": "template.system",
    "system_prompt": "template.system",
    # adapter
    "finetuning_type": "adapter.kind",
    "train_type": "adapter.kind",
    "use_lora": "adapter.kind",
    "r": "adapter.rank",
    "lora_r": "adapter.rank",
    "lora_rank": "adapter.rank",
    "lora_alpha": "adapter.alpha",
    "lora_dropout": "adapter.dropout",
    "lora_target": "adapter.targets",
    "lora_targets": "adapter.targets",
    "lora_target_modules": "adapter.targets",
    "target_modules": "adapter.targets",
    "dora": "adapter.use_dora",
    "peft_use_dora": "adapter.use_dora",
    "rslora": "adapter.use_rslora",
    "peft_use_rslora": "adapter.use_rslora",
    "peft_layers_to_transform": "adapter.layers_to_transform",
    "layers": "adapter.layers_to_transform",
    "modules_to_save": "adapter.embeddings",
    "lora_modules_to_save": "adapter.embeddings",
    "additional_target": "adapter.embeddings",
    "new_rows": "adapter.embeddings",
    # train
    "output": "train.output_dir",
    "num_train_epochs": "train.epochs",
    "num_epochs": "train.epochs",
    "train_batch_size": "train.batch_size",
    "micro_batch_size": "train.batch_size",
    "per_device_train_batch_size": "train.batch_size",
    "gradient_accumulation_steps": "train.accumulation_steps",
    "lr": "train.learning_rate",
    "loraplus_lr_ratio": "train.lora_plus_ratio",
    "lorap_lr_ratio": "train.lora_plus_ratio",
    "lr_scheduler": "train.schedule",
    "lr_scheduler_type": "train.schedule",
    "warmup": "train.warmup_share",
    "warmup_ratio": "train.warmup_share",
    "warmup_steps": "train.warmup_share",
    "max_gradient_norm": "train.max_grad_norm",
    "gradient_clipping": "train.max_grad_norm",
    "neftune": "train.neftune_alpha",
    "neftune_noise_alpha": "train.neftune_alpha",
    "label_smoothing_factor": "train.label_smoothing",
    "ema": "train.ema_decay",
    "packing": "train.batching",
    "sample_packing": "train.batching",
    "group_by_length": "train.batching",
    "bf16": "train.precision",
    "fp16": "train.precision",
    "dtype": "train.precision",
    "torch_dtype": "train.precision",
    "mixed_precision": "train.precision",
    "no_cuda": "train.device",
    "use_cpu": "train.device",
    "num_threads": "train.threads",
    "optim": "train.optimizer",
    "gradient_checkpointing": "train.activation_checkpointing",
    "use_gradient_checkpointing": "train.activation_checkpointing",
    "save_steps": "train.save_every_steps",
    "save_total_limit": "train.keep_checkpoints",
    "load_best_model_at_end": "train.final",
    "metric_for_best_model": "train.best_by",
    "early_stopping_patience": "train.early_stop_patience",
    "early_stopping_steps": "train.early_stop_patience",
    # eval, log
    "eval_steps": "eval.every_steps",
    "evaluation_steps": "eval.every_steps",
    "max_eval_samples": "eval.max_samples",
    "logging_steps": "log.every_steps",
    "report_to": "log.trackers",
    "use_wandb": "log.trackers",
    "use_swanlab": "log.trackers",
}
"""The name in transformers, LLaMA-Factory, ms-swift, axolotl, BELLE or the LCCC kit -> ours. Our own last words
(``learning_rate``, ``weight_decay``, ``seed``) need no entry: ``meant`` finds them in whichever section they are."""

WITHOUT_COUNTERPART: dict[str, str] = {
    "do_train": "不需要它: hantune train 总是训练",
    "do_eval": "不需要它: 验证损失总会计算, 多久一次用 eval.every_steps",
    "stage": "不需要它: hantune 只做对话微调",
    "overwrite_output_dir": "不需要它: 旧的运行从不被覆盖",
    "overwrite_cache": "不需要它: 数据变了缓存会自己重做",
    "remove_unused_columns": "不需要它",
    "evaluation_strategy": "不需要它: 多久一次用 eval.every_steps",
    "eval_strategy": "不需要它: 多久一次用 eval.every_steps",
    "save_strategy": "不需要它: 多久一次用 train.save_every_steps",
    "bnb_4bit_quant_type": "不需要它: model.load=4bit 总是 NF4",
    "bnb_4bit_use_double_quant": "不需要它: model.load=4bit 总是双重量化",
    "double_quantization": "不需要它: model.load=4bit 总是双重量化",
    "bnb_4bit_compute_dtype": "不需要它: 按 train.precision",
    "enable_liger_kernel": "不需要它: 显卡上装了 liger-kernel 就用",
    "use_liger_kernel": "不需要它: 显卡上装了 liger-kernel 就用",
    "task_type": "不需要它: 总是因果语言模型",
    "layers_pattern": "不需要它: adapter.layers_to_transform 的层号对每种模型都认得",
    "peft_layers_pattern": "不需要它: adapter.layers_to_transform 的层号对每种模型都认得",
    "trainable_token_indices": "不需要它: 扩充词表后的新行自动一起学 (adapter.embeddings=new-rows)",
    "peft_trainable_token_indices": "不需要它: 扩充词表后的新行自动一起学 (adapter.embeddings=new-rows)",
    "ensure_weight_tying": "不需要它: 底座里是同一个矩阵的, 训练后还是同一个",
    "peft_ensure_weight_tying": "不需要它: 底座里是同一个矩阵的, 训练后还是同一个",
    "loraplus_lr_embedding": "不需要它: 词嵌入用 train.learning_rate",
    "per_device_eval_batch_size": "不需要它: 评测的小批按 train.batch_tokens",
}
"""Names that are often seen and need nothing here, with the reason."""

OTHER_VALUES: dict[str, dict[str, str]] = {
    "adapter.kind": {"full": "none", "freeze": "none", "qlora": "lora"},
    "adapter.targets": {"all": "all-linear"},
    "train.batching": {"group_by_length": "sorted", "packing": "packed"},
    "train.schedule": {"constant_with_warmup": "constant"},
    "model.load": {
        "4": "4bit", "8": "8bit", "16": "full", "nf4": "4bit", "int4": "4bit", "int8": "8bit", "none": "full",
        "bnb.nf4": "4bit", "bnb.nf4-dq": "4bit", "bnb.int8": "8bit",
    },
    "train.optimizer": {
        "adamw_torch": "adamw", "adamw_torch_fused": "adamw", "adamw_hf": "adamw", "adam": "adamw",
        "adamw_8bit": "adamw8bit", "adamw_bnb_8bit": "adamw8bit", "paged_adamw_32bit": "paged_adamw",
        "paged_adamw_8bit": "paged_adamw8bit",
    },
    "train.precision": {
        "bfloat16": "bf16",
        "float16": "fp16",
        "half": "fp16",
        "fp32": "float32",
        "no": "float32",
    },
    "train.best_by": {"eval_loss": "held_out", "loss": "held_out"},
    "train.device": {"gpu": "cuda", "cuda:0": "cuda"},
}
"""Setting -> what other tools write -> what is written here."""

SECRET = re.compile(
    r"pass(word|wd|phrase)|secret|credential|密码|密钥|口令"
    r"|(^|_)(api|access|private|auth)_?key$"
    r"|^(?!.*(pad|eos|bos|unk|sep|cls|mask|stop|special|max|min|num|new|batch)_).*(^|_)token$"
)
"""Names under which people keep secrets; ``pad_token`` and its like are not."""

SECRET_VALUE = re.compile(
    r"\b(hf_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9_-]{16,}|gh[pos]_[A-Za-z0-9]{20,})|://[^/\s:@]+:[^/\s@]+@"
)
"""Texts that are secrets under any name: hub tokens, API keys, addresses with a password."""


def plain(key: str) -> str:
    """A key as it is compared: lower case, underscores for hyphens and blanks."""
    return re.sub(r"[-\s]+", "_", key.strip().lower())


def is_secret(key: str, value: object) -> bool:
    """Whether ``key: value`` looks like a password, token or API key."""
    camel = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", key.rpartition(".")[2])
    if plain(key) in settings():
        return isinstance(value, str) and bool(SECRET_VALUE.search(value))
    return bool(SECRET.search(plain(camel))) or bool(SECRET_VALUE.search(str(value)))


def meant(name: str) -> str | None:
    """Our dotted name that ``name`` (``train.batchsize``, ``lora_r``, ``epochs``) most likely means, or None."""
    section, _, key = plain(name).rpartition(".")
    section = meant_section(section) or section
    if f"{section}.{key}" in settings():
        return f"{section}.{key}"
    if key in OTHER_NAMES:
        return OTHER_NAMES[key]
    homes = [setting.name for setting in settings().values() if setting.key == key]
    if homes:
        return next((home for home in homes if home.startswith(f"{section}.")), homes[0])
    own = {setting.key: setting.name for setting in settings().values() if setting.section == section}
    return _nearest(key, own) or _nearest(key, _last_words())


def _nearest(word: str, names: dict[str, str]) -> str | None:
    """The setting behind the name that looks most like ``word``, or None when none is close."""
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.75)
    return names[near[0]] if near else None


def meant_section(name: str) -> str | None:
    """The section that ``name`` most likely means, or None."""
    near = difflib.get_close_matches(plain(name), sections(), n=1, cutoff=0.6)
    return near[0] if near else None


def _last_words() -> dict[str, str]:
    """Every word a setting goes by, ours and others', -> its dotted name."""
    return {**{setting.key: setting.name for setting in settings().values()}, **OTHER_NAMES}
