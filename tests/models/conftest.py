"""Adapters and folders that the model tests share."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.models.vocab_corpus import (  # noqa: F401  (fixtures)
    bytes_folder,
    corpus,
    model_of,
    published_folder,
    sentencepiece_folder,
)


def move(model: Any, *, seed: int = 5, scale: float = 0.1) -> Any:
    """Set every trainable tensor of a PeftModel to seeded noise, as training would; gives the model back."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(0.0, scale, generator=generator)
    return model


@pytest.fixture(scope="session")
def make_adapter() -> Callable[..., Path]:
    """``make_adapter(folder, base, section=..., template="llama2")``: an ADAPTER of a base folder, moved by noise."""
    from hantune.config.schema import AdapterSection
    from hantune.data.templates import get_template
    from hantune.models.adapter import attach_lora, save_adapter
    from hantune.models.load import load_model, load_tokenizer

    def make(folder: Path, base: Path, *, template: str = "llama2", dtype: str = "float32", **section: Any) -> Path:
        model = attach_lora(load_model(base, dtype=getattr(torch, dtype)), AdapterSection(**section), seed=1)
        info = {"data": {"fingerprint": "d" * 64}, "metrics": {"loss": 1.5}}
        save_adapter(
            move(model),
            folder,
            base=str(base),
            tokenizer=load_tokenizer(base),
            template=get_template(template),
            info=info,
        )
        return folder

    return make


@pytest.fixture(scope="session")
def workshop(
    make_adapter: Callable[..., Path], tiny_llama_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder with ``base`` (tiny Llama) and ``adapter`` (its adapter). Read only: use ``shop``."""
    root = tmp_path_factory.mktemp("workshop")
    shutil.copytree(tiny_llama_folder, root / "base")
    make_adapter(root / "adapter", root / "base")
    return root


@pytest.fixture
def shop(workshop: Path, tmp_path: Path) -> Path:
    """A copy of ``workshop`` to break."""
    shutil.copytree(workshop, tmp_path / "shop")
    return tmp_path / "shop"


@pytest.fixture(scope="session")
def sentencepiece_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ``tokenizer.model`` like Llama 2's: SentencePiece BPE with byte fallback, unk 0, bos 1, eos 2, no pad."""
    import sentencepiece

    from tests.conftest import SENTENCES

    path = tmp_path_factory.mktemp("sentencepiece") / "tokenizer.model"
    with path.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(SENTENCES * 5), model_writer=file, model_type="bpe", vocab_size=600,
            byte_fallback=True, character_coverage=0.98, normalization_rule_name="identity", pad_id=-1,
            remove_extra_whitespaces=False, allow_whitespace_only_pieces=True, split_digits=True,
            hard_vocab_limit=False, minloglevel=2,
        )  # fmt: skip
    return path


@pytest.fixture(scope="session")
def tiktoken_model(byte_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ``tokenizer.model`` like Llama 3's: ``base64 rank`` lines, the 256 bytes first, then merges."""
    import base64
    import json

    from hantune.data.tokens import byte_level_alphabet

    of = {character: byte for byte, character in byte_level_alphabet().items()}
    merges = json.loads(byte_tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    spelt = dict.fromkeys(left + right for left, right in merges)
    tokens = [bytes([byte]) for byte in range(256)] + [bytes(of[c] for c in piece) for piece in spelt]
    path = tmp_path_factory.mktemp("tiktoken") / "tokenizer.model"
    path.write_bytes(b"".join(b"%s %d\n" % (base64.b64encode(t), rank) for rank, t in enumerate(tokens)))
    return path
