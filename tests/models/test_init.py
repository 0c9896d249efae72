"""New models: seeded, of the promised shape, with exactly the rows that the tokenizer needs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hantune.errors import ConfigError, RunError
from hantune.models.fingerprint import fingerprint
from hantune.models.init import PRESETS, init_model
from hantune.models.load import load_model, load_tokenizer


@pytest.mark.parametrize("family", ["llama", "bloom"])
def test_a_new_model_loads_and_computes(family: str, byte_tokenizer_folder: Path, tmp_path: Path) -> None:
    result = init_model(tmp_path / "m", family=family, tokenizer=byte_tokenizer_folder)
    model = load_model(tmp_path / "m", dtype=torch.float32)
    tokenizer = load_tokenizer(tmp_path / "m")
    assert result["parameters"] == model.num_parameters()
    assert result["vocab_size"] == len(tokenizer) == model.get_input_embeddings().weight.shape[0]
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert model.config.pad_token_id == tokenizer.pad_token_id != model.config.eos_token_id
    logits = model(input_ids=torch.tensor([tokenizer.encode("你好")])).logits
    assert torch.isfinite(logits).all()
    assert 0.01 < float(logits.detach().std()) < 10


def test_the_embedded_tokenizer_is_the_default(tmp_path: Path) -> None:
    result = init_model(tmp_path / "m")
    assert 1_000_000 < result["parameters"] < 4_000_000
    assert load_tokenizer(tmp_path / "m").decode(load_tokenizer(tmp_path / "m").encode("汉字")[1:]) == "汉字"


def test_the_same_seed_gives_the_same_bytes(sp_tokenizer_folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    init_model(tmp_path / "a", tokenizer=sp_tokenizer_folder, seed=7)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(2)
    init_model(tmp_path / "b", tokenizer=sp_tokenizer_folder, seed=7)
    init_model(tmp_path / "c", tokenizer=sp_tokenizer_folder, seed=8)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    assert fingerprint(tmp_path / "a") != fingerprint(tmp_path / "c")


def test_bfloat16_is_the_rounded_float32(sp_tokenizer_folder: Path, tmp_path: Path) -> None:
    init_model(tmp_path / "wide", tokenizer=sp_tokenizer_folder)
    init_model(tmp_path / "narrow", tokenizer=sp_tokenizer_folder, dtype="bfloat16")
    wide, narrow = (load_file(tmp_path / name / "model.safetensors") for name in ("wide", "narrow"))
    assert all(torch.equal(wide[name].bfloat16(), narrow[name]) for name in wide)
    assert json.loads((tmp_path / "narrow" / "config.json").read_bytes())["dtype"] == "bfloat16"


@pytest.mark.parametrize(
    ("preset", "low", "high"),
    [("tiny", 1, 4), ("15m", 13, 17), ("110m", 105, 115), ("1b", 1050, 1150), ("7b", 6600, 6800)],
)
def test_presets_are_as_large_as_they_say(preset: str, low: int, high: int) -> None:
    shape = PRESETS[preset]
    attention = 2 * shape.width**2 + 2 * shape.width**2 * shape.kv_heads // shape.heads
    body = shape.layers * (attention + 3 * shape.width * shape.inner)
    embedding = (6144 if preset == "tiny" else 32000) * shape.width * (1 if shape.is_tied else 2)
    assert low <= (body + embedding) / 1e6 <= high


@pytest.mark.parametrize("wrong", [{"preset": "13b"}, {"family": "gpt"}, {"dtype": "float16"}])
def test_an_unknown_choice_names_the_choices(tmp_path: Path, wrong: dict[str, str]) -> None:
    with pytest.raises(ConfigError) as caught:
        init_model(tmp_path / "m", **wrong)  # type: ignore[arg-type]
    assert caught.value.code == "model.no-such-preset"
    assert not (tmp_path / "m").exists()


def test_a_full_folder_is_left_alone(sp_tokenizer_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(RunError, match=r"run\.exists"):
        init_model(tmp_path, tokenizer=sp_tokenizer_folder)
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]
