"""What is in the GGUF file is the model: by transformers' own reader, and by ours when something is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from hantune.assets import tokenizer_path
from hantune.errors import HantuneError
from hantune.models.export import gguf_file
from hantune.models.export.gguf_file import write_gguf
from hantune.models.init import init_model
from hantune.models.load import load_model, load_tokenizer

gguf = pytest.importorskip("gguf")
IDS = torch.tensor([[1, 5, 9, 300, 301, 17]])


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama with four query heads, two key heads and the embedded SentencePiece tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from hantune.models.tokenizer import copy_tokenizer

    folder = tmp_path_factory.mktemp("gguf") / "llama"
    folder.mkdir()
    tokenizer = load_tokenizer(tokenizer_path())
    copy_tokenizer(tokenizer, folder, chat_template="{{ messages }}")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer) + 9, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, bos_token_id=1, eos_token_id=2, rope_theta=5e4,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=IDS).logits
    return found


@pytest.mark.parametrize(("kind", "tolerance"), [("f16", 1e-3), ("q8_0", 2e-2), ("q4_0", 0.2)])
def test_transformers_reads_the_same_model(kind: str, tolerance: float, llama: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    report = write_gguf(llama, tmp_path / "m.gguf", kind, chat_template="{{ messages }}")
    read = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="m.gguf", dtype=torch.float32)
    ours = logits(load_model(llama, dtype=torch.float32))
    assert float((logits(read) - ours).square().mean().sqrt()) < tolerance * float(ours.square().mean().sqrt())
    assert read.config.num_key_value_heads == 2
    assert read.config.rope_parameters["rope_theta"] == 5e4
    assert report["tensors"] == 21
    assert all(error <= 1 for error in report["errors"].values())


def test_the_file_has_the_tokens_their_kinds_and_the_template(llama: Path, tmp_path: Path) -> None:
    write_gguf(llama, tmp_path / "m.gguf", "q8_0", chat_template="{{ messages }}")
    reader = gguf.GGUFReader(tmp_path / "m.gguf")
    tokenizer = load_tokenizer(llama)
    fields = {key: field.contents() for key, field in reader.fields.items()}
    pieces = fields["tokenizer.ggml.tokens"]
    assert pieces[: len(tokenizer)] == tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    assert pieces[len(tokenizer) :] == [f"[PAD{n}]" for n in range(len(tokenizer), len(tokenizer) + 9)]
    kinds = fields["tokenizer.ggml.token_type"]
    assert kinds[:3] == [2, 3, 3]
    assert kinds[-1] == 5
    assert (fields["tokenizer.ggml.bos_token_id"], fields["tokenizer.ggml.eos_token_id"]) == (1, 2)
    assert fields["tokenizer.ggml.add_bos_token"] is True
    assert fields["tokenizer.chat_template"] == "{{ messages }}"
    assert len(fields["tokenizer.ggml.scores"]) == len(pieces)


def test_llama3_stretching_is_what_transformers_computes() -> None:
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    rope = {
        "rope_type": "llama3", "rope_theta": 500_000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }  # fmt: skip
    config = LlamaConfig(hidden_size=512, num_attention_heads=4, rope_parameters=rope)
    factors = torch.from_numpy(gguf_file._rope_factors(config, Path("x")))
    plain = 500_000.0 ** (-torch.arange(0, 128, 2) / 128)
    torch.testing.assert_close(plain / factors, LlamaRotaryEmbedding(config).inv_freq, rtol=1e-5, atol=0)


@pytest.mark.parametrize("fault", ["permutation", "scale", "swap"])
def test_a_wrong_file_is_found(fault: str, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = gguf_file._ordered

    def wrong(name: str, weight: torch.Tensor, config: Any, *, to_meta: bool) -> torch.Tensor:
        if to_meta and fault == "permutation":
            return weight
        if to_meta and fault == "scale" and name == "blk.1.ffn_up.weight":
            return weight * 1.01
        if to_meta and fault == "swap" and name == "blk.0.attn_v.weight":
            return weight.flip(0)
        return right(name, weight, config, to_meta=to_meta)

    monkeypatch.setattr(gguf_file, "_ordered", wrong)
    with pytest.raises(HantuneError) as caught:
        write_gguf(llama, tmp_path / "m.gguf", "f16", chat_template=None)
    assert caught.value.code == "export.not-equal"


def test_what_llama_cpp_would_read_otherwise_is_refused(
    tiny_bloom_folder: Path, tiny_llama_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(HantuneError) as caught:
        write_gguf(tiny_bloom_folder, tmp_path / "a.gguf", "f16", chat_template=None)
    assert caught.value.code == "export.not-llama"
    with pytest.raises(HantuneError) as caught:  # its SentencePiece tokenizer has no tokenizer.model
        write_gguf(tiny_llama_folder, tmp_path / "b.gguf", "f16", chat_template=None)
    assert caught.value.code == "export.unknown-tokenizer"


def test_without_the_package_the_error_says_how_to_get_it(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(HantuneError) as caught:
        write_gguf(llama, tmp_path / "m.gguf", "f16", chat_template=None)
    assert caught.value.code == "machine.no-gguf"
    assert "pip install" in (caught.value.hint or "")


def test_a_bundled_preset_goes_through(tmp_path: Path) -> None:
    init_model(tmp_path / "m")
    report = write_gguf(tmp_path / "m", tmp_path / "m.gguf", "q4_0", chat_template=None)
    assert report["bytes"] < 0.8 * (tmp_path / "m" / "model.safetensors").stat().st_size
