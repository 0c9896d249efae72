"""Other tools' names, misspelt names, and names of secrets."""

from __future__ import annotations

import pytest

from hantune.config.fields import settings
from hantune.config.names import OTHER_NAMES, OTHER_VALUES, WITHOUT_COUNTERPART, is_secret, meant


def test_every_other_name_leads_to_a_setting() -> None:
    assert set(OTHER_NAMES.values()) <= set(settings())
    assert not set(OTHER_NAMES) & set(WITHOUT_COUNTERPART)
    for name, values in OTHER_VALUES.items():
        assert set(values.values()) <= set(settings()[name].choices)


@pytest.mark.parametrize("name", settings())
def test_a_setting_is_found_under_its_name_and_with_a_slip(name: str) -> None:
    section, key = name.split(".")
    assert meant(name) == name
    assert meant(f"{section}.{key.replace('_', '-').upper()}") == name
    if len(key) > 5 and f"{key[:2]}{key[3:]}" not in OTHER_NAMES:
        assert meant(f"{section}.{key[:2]}{key[3:]}") == name


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("trian.batch_size", "train.batch_size"),
        ("adapter.r", "adapter.rank"),
        ("epoch", "train.epochs"),
        ("loging_steps", "log.every_steps"),
        ("Seed", "train.seed"),
        ("adapter.use-dora", "adapter.use_dora"),
        ("lorap_lr_ratio", "train.lora_plus_ratio"),
        ("neftune_noise_alpha", "train.neftune_alpha"),
        ("label_smoothing_factor", "train.label_smoothing"),
        ("lora_modules_to_save", "adapter.embeddings"),
        ("max_samples", "data.max_samples"),
        ("xyzzy", None),
    ],
)
def test_meant(name: str, ours: str | None) -> None:
    assert meant(name) == ours


def test_names_of_secrets() -> None:
    secret = "token hf_token apiKey api-key OPENAI_API_KEY password wandb_api_key client_secret access_key 密码"
    harmless = "pad_token eos_token max_token max_tokens tokenizer tokens key keys add_special_tokens data.max_tokens"
    assert all(is_secret(name, 1) for name in secret.split())
    assert not any(is_secret(name, 1) for name in harmless.split())
