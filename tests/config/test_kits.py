"""``finetune_config.json`` of the LCCC kit in our names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hantune.config.io import as_overrides, load_config
from hantune.config.kits import read_kit
from hantune.errors import ConfigError

WHOLE = {
    "model_args": {"model_name_or_path": "m110", "use_local_model": True},
    "data_args": {"dataset_name": "lccc.json", "max_samples": 200, "max_turns": None, "max_seq_length": 512},
    "training_args": {
        "output_dir": "out",
        "num_train_epochs": 3,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 8,
        "learning_rate": 2e-5,
        "weight_decay": 0.01,
        "warmup_ratio": 0.03,
        "lr_scheduler_type": "constant_with_warmup",
        "logging_steps": 10,
        "save_steps": 100,
        "save_total_limit": 1,
        "max_steps": -1,
        "max_grad_norm": 0,
        "fp16": True,
        "bf16": False,
        "use_cpu": True,
        "report_to": "none",
        "deepspeed": "ds.json",
    },
    "lora_args": {"r": 4, "lora_alpha": 32, "lora_dropout": 0, "target_modules": "q_proj, v_proj", "bias": "none"},
}


def write(tmp_path: Path, value: Any) -> Path:
    path = tmp_path / "finetune_config.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value, indent=1), encoding="utf-8")
    return path


def test_the_whole_file_becomes_a_configuration(tmp_path: Path) -> None:
    kit = read_kit(write(tmp_path, WHOLE))
    config = load_config(None, as_overrides(kit.overrides)).config
    assert kit.data == {"use_local_model": True, "dataset_name": "lccc.json", "max_samples": 200}
    assert config.model.path == "m110"
    assert config.data.max_tokens == 512
    assert config.train.output_dir == "out"
    assert (config.train.epochs, config.train.batch_size, config.train.accumulation_steps) == (3.0, 4, 8)
    assert (config.train.learning_rate, config.train.weight_decay, config.train.warmup_share) == (2e-5, 0.01, 0.03)
    assert (config.train.schedule, config.train.max_grad_norm, config.train.max_steps) == ("constant", None, None)
    assert (config.log.every_steps, config.train.save_every_steps, config.train.keep_checkpoints) == (10, 100, 2)
    assert (config.train.device, config.train.precision) == ("cpu", "auto")
    assert (config.adapter.rank, config.adapter.alpha, config.adapter.dropout) == (4, 32.0, 0.0)
    assert config.adapter.targets == ("q_proj", "v_proj")
    assert [note.split(" = ")[0] for note in kit.notes] == ["没有用 training_args.deepspeed", "没有用 fp16"]


@pytest.mark.parametrize(
    ("value", "overrides"),
    [
        ({}, {}),
        ({"lora_args": {"lora_r": 2}}, {"adapter.rank": 2}),
        ({"lora_args": {"target_modules": ["a"]}}, {"adapter.targets": ["a"]}),
        ({"lora_args": {"target_modules": "all"}}, {"adapter.targets": "all-linear"}),
        ({"training_args": {"bf16": True}}, {"train.precision": "bf16"}),
        ({"training_args": {"no_cuda": True}}, {"train.device": "cpu"}),
        ({"training_args": {"fp16": False, "use_cpu": False}}, {}),
        ({"training_args": {"report_to": ["wandb", "mlflow"]}}, {"log.trackers": ["wandb"]}),
        ({"training_args": {"seed": 0, "weight_decay": 0}}, {"train.seed": 0, "train.weight_decay": 0}),
        ({"model_args": {"torch_dtype": "float16"}}, {"train.precision": "fp16"}),
        ({"model_args": {"load_in_4bit": True, "load_in_8bit": False}}, {"model.load": "4bit"}),
        ({"model_args": {"load_in_8bit": True}}, {"model.load": "8bit"}),
        ({"quantization_bit": 4}, {"model.load": "4bit"}),
        ({"model_args": {"load_in_bits": 8}}, {"model.load": "8bit"}),
        ({"quantize": "bnb.nf4"}, {"model.load": "4bit"}),
        ({"training_args": {"optim": "paged_adamw_8bit"}}, {"train.optimizer": "paged_adamw8bit"}),
        ({"training_args": {"optim": "adamw_torch"}}, {"train.optimizer": "adamw"}),
        ({"training_args": {"gradient_checkpointing": True}}, {"train.activation_checkpointing": True}),
        ({"lora_args": {"use_dora": True, "use_rslora": True}}, {"adapter.use_dora": True, "adapter.use_rslora": True}),
        ({"lora_args": {"layers_to_transform": 3}}, {"adapter.layers_to_transform": [3]}),
        ({"lora_args": {"layers_to_transform": [3, 4]}}, {"adapter.layers_to_transform": [3, 4]}),
        ({"lora_args": {"modules_to_save": ["embed_tokens", "lm_head"]}}, {"adapter.embeddings": "all"}),
        ({"additional_target": "embed_tokens,lm_head"}, {"adapter.embeddings": "all"}),
        ({"training_args": {"neftune_noise_alpha": 5}}, {"train.neftune_alpha": 5}),
        ({"training_args": {"label_smoothing_factor": 0.0}}, {"train.label_smoothing": 0.0}),
        ({"loraplus_lr_ratio": 16}, {"train.lora_plus_ratio": 16}),
        ({"use_lora": False, "learning_rate": 1e-5}, {"train.learning_rate": 1e-5, "adapter.kind": "none"}),
    ],
)
def test_any_subset(tmp_path: Path, value: Any, overrides: dict[str, Any]) -> None:
    kit = read_kit(write(tmp_path, value))
    assert kit.overrides == overrides
    assert kit.notes == []


def test_what_has_no_counterpart_becomes_a_note(tmp_path: Path) -> None:
    value = {
        "training_args": {"warmup_steps": 10, "optim": "sgd", "lr_scheduler_type": "polynomial", "val_size": 100},
        "wandb_args": {"project": "x"},
        "lora_args": {"modules_to_save": ["norm"], "layers_pattern": "layers"},
        "data_args": {"cutoff_len": 9, "max_seq_length": 10},
    }
    kit = read_kit(write(tmp_path, value))
    assert kit.overrides == {"data.max_tokens": 10}
    assert len(kit.notes) == 8
    assert any("train.warmup_share" in note for note in kit.notes)
    assert any("用了后面的 10" in note for note in kit.notes)


@pytest.mark.parametrize(
    ("value", "code", "message"),
    [
        ({"training_args": {"learning_rate": "2e-5"}}, "config.bad-value", "training_args.learning_rate 应为 数"),
        ({"training_args": {"num_train_epochs": 0}}, "config.bad-value", "training_args.num_train_epochs 要大于 0"),
        ({"training_args": {"fp16": "yes"}}, "config.bad-value", "training_args.fp16 应为 true 或 false"),
        ({"data_args": {"max_samples": "200"}}, "config.bad-value", "data_args.max_samples 应为"),
        ({"data_args": {"max_turns": True}}, "config.bad-value", "data_args.max_turns 应为"),
        ({"lora_args": 3}, "config.bad-value", "lora_args 应为"),
        ({"training_args": {"fp16": True, "bf16": True}}, "config.conflict", "fp16 和 bf16"),
        ({"training_args": {"hub_token": "s3cr3t"}}, "config.secret", "training_args.hub_token"),
        ('{"lora_args": {"r": 1, "r": 2}}', "config.duplicate-key", "lora_args.r 写了两次"),
        ({"training_args": {"save_steps": 0}, "lora_args": {"r": 0}}, "config.invalid", "lora_args.r 不能小于 1"),
        ("[]", "config.not-mapping", ""),
        ("{", "config.broken-json", ""),
    ],
)
def test_bad_files(tmp_path: Path, value: Any, code: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_kit(write(tmp_path, value))
    assert caught.value.code == code
    assert message in caught.value.message
    assert "s3cr3t" not in str(caught.value)
    assert "finetune_config.json" in (caught.value.place or "")


def test_the_kits_of_belle(shared_data: Path) -> None:
    kit = read_kit(shared_data / "belle" / "run_config" / "Bloom_config.json")
    assert kit.overrides["train.accumulation_steps"] == 8
    lora = read_kit(shared_data / "belle" / "run_config" / "lora_hyperparams_bloom.json")
    assert lora.overrides["adapter.targets"] == ["query_key_value"]
