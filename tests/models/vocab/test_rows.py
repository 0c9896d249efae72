from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hantune.errors import ModelError
from hantune.models.adapter import NEW_ROWS
from hantune.models.load import load_model
from hantune.models.tokenizer import copy_tokenizer, load_tokenizer
from hantune.models.vocab.rows import STARTS, Start, padded, write_expanded
from hantune.models.weights import Tensors

ORIGINS = [[5], [6, 7, 8], [9, 9]]


def expand(source: Path, out: Path, start: Start = "mean", first: int | None = None, seed: int = 0) -> Path:
    out.mkdir()
    config = json.loads((source / "config.json").read_bytes())
    write_expanded(source, out, ORIGINS, config["vocab_size"] if first is None else first, start=start, seed=seed)
    copy_tokenizer(load_tokenizer(source), out, chat_template=None)
    return out


@pytest.mark.parametrize(("family", "tied"), [("llama", False), ("llama", True), ("bloom", True)])
def test_new_rows_are_means_and_the_rest_is_untouched(
    model_of: Callable[..., Path], bytes_folder: Path, tmp_path: Path, family: str, tied: bool
) -> None:
    source = model_of(bytes_folder, family, tie_word_embeddings=tied)
    out = expand(source, tmp_path / "out")
    before, after = load_model(source, dtype=torch.float32), load_model(out, dtype=torch.float32)
    first = before.config.vocab_size
    assert after.config.vocab_size == padded(first + 3)
    for ends in ("get_input_embeddings", "get_output_embeddings"):
        old, new = getattr(before, ends)().weight, getattr(after, ends)().weight
        assert torch.equal(new[:first], old)
        for place, ids in enumerate(ORIGINS):
            torch.testing.assert_close(new[first + place], old[ids].mean(0))
        torch.testing.assert_close(new[first + 3 :], old.mean(0).expand(len(new) - first - 3, -1))
    assert (after.get_input_embeddings().weight is after.get_output_embeddings().weight) == tied
    with Tensors(source) as one, Tensors(out) as other:
        same = [name for name in one.specs if one.specs[name] == other.specs[name]]
        assert len(same) == len(one.specs) - (1 if tied else 2)
        assert all(torch.equal(one.read(name), other.read(name)) for name in same)


def test_old_tokens_have_the_old_logits(model_of: Callable[..., Path], bytes_folder: Path, tmp_path: Path) -> None:
    source = model_of(bytes_folder)
    out = expand(source, tmp_path / "out")
    ids = torch.arange(3, 20).unsqueeze(0)
    before, after = load_model(source, dtype=torch.float32), load_model(out, dtype=torch.float32)
    with torch.no_grad():
        old, new = before(input_ids=ids).logits, after(input_ids=ids).logits
    assert torch.equal(old, new[..., : old.shape[-1]])


def test_reserved_rows_are_used_before_the_model_grows(
    model_of: Callable[..., Path], bytes_folder: Path, tmp_path: Path
) -> None:
    """BLOOM has 250,880 rows for 250,680 ids."""
    needed = len(load_tokenizer(bytes_folder))
    source = model_of(bytes_folder, vocab_size=padded(needed) + 64)
    out = expand(source, tmp_path / "out", first=needed)
    before, after = load_model(source, dtype=torch.float32), load_model(out, dtype=torch.float32)
    old, new = before.get_input_embeddings().weight, after.get_input_embeddings().weight
    assert new.shape == old.shape
    assert torch.equal(new[needed + 3 :], old[needed + 3 :])
    torch.testing.assert_close(new[needed + 1], old[[6, 7, 8]].mean(0))
    assert json.loads((out / "config.json").read_bytes())[NEW_ROWS] == [needed, needed + 3]


def test_the_beginnings_differ_only_in_new_rows(
    model_of: Callable[..., Path], bytes_folder: Path, tmp_path: Path
) -> None:
    source = model_of(bytes_folder)
    rows = {start: load_model(expand(source, tmp_path / start, start), dtype=torch.float32) for start in STARTS}
    weights = {start: model.get_output_embeddings().weight.detach() for start, model in rows.items()}
    first = json.loads((source / "config.json").read_bytes())["vocab_size"]
    assert torch.equal(weights["mean"][:first], weights["random"][:first])
    assert torch.equal(weights["mean-all"][first], weights["mean-all"][first + 1])
    assert not torch.equal(weights["random"][first], weights["random"][first + 1])
    assert 0.05 < float(weights["random"][first : first + 3].std()) < 0.2  # the config's 0.1


def test_the_same_call_writes_the_same_bytes(model_of: Callable[..., Path], bytes_folder: Path, tmp_path: Path) -> None:
    source = model_of(bytes_folder)
    one, same, other = (expand(source, tmp_path / str(n), "random", seed=n // 2) for n in range(3))
    name = "model.safetensors"
    assert (one / name).read_bytes() == (same / name).read_bytes() != (other / name).read_bytes()


@pytest.mark.parametrize("change", [{"quantization_config": {"quant_method": "gptq"}}, {"vocab_size": 7}])
def test_models_that_cannot_grow_are_refused(
    model_of: Callable[..., Path], bytes_folder: Path, tmp_path: Path, change: dict[str, object]
) -> None:
    source = model_of(bytes_folder)
    first = json.loads((source / "config.json").read_bytes())["vocab_size"]
    config = json.loads((source / "config.json").read_bytes()) | change
    (source / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ModelError) as caught:
        write_expanded(source, tmp_path, ORIGINS, first)
    assert caught.value.code == "vocab.unsupported"
