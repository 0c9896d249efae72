from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from hantune.errors import ModelError
from hantune.models.load import load_model, load_tokenizer
from hantune.models.vocab.files import Vocabulary
from hantune.models.vocab.proof import (
    BITS_CHARACTERS,
    SEQUENCE,
    bits_per_character,
    pick_bits_texts,
    require_kept,
    tokens_per_character,
)
from tests.models.vocab_corpus import TALK


def test_bits_are_nats_of_all_tokens_over_characters(model_of: Callable[..., Path], bytes_folder: Path) -> None:
    folder = model_of(bytes_folder)
    model, tokenizer = load_model(folder, dtype=torch.float32), load_tokenizer(folder)
    text = "你好 world"
    ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer.encode(text)]])
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0, :-1]
    wanted = F.cross_entropy(logits, ids[0, 1:], reduction="sum").item() / math.log(2) / len(text)
    assert bits_per_character(model, folder, [text]) == pytest.approx(wanted, rel=1e-6)
    assert bits_per_character(model, folder, [text, text]) == pytest.approx(wanted, rel=1e-6)


def test_texts_are_picked_evenly_and_cut() -> None:
    texts = [f"第{number}段文字" for number in range(5000)] + ["长" * 2000]
    picked = pick_bits_texts(texts)
    assert BITS_CHARACTERS * 0.5 < sum(map(len, picked)) < BITS_CHARACTERS * 1.5
    assert max(map(len, picked)) <= SEQUENCE
    assert picked == [text for text in texts if text[:SEQUENCE] in set(picked)] or len(picked) > 1
    assert pick_bits_texts([]) == []


def test_an_equal_tokenizer_is_kept_and_has_equal_length(published_folder: Path) -> None:
    old = Vocabulary(published_folder)
    kept = require_kept(old, old, TALK, [])
    assert kept.texts == len(TALK)
    assert kept.plain >= 8
    assert tokens_per_character(old, TALK) == tokens_per_character(Vocabulary(published_folder), TALK)


def test_another_tokenizer_is_not_kept(published_folder: Path, bytes_folder: Path, tmp_path: Path) -> None:
    old = Vocabulary(published_folder)
    with pytest.raises(ModelError) as caught:
        require_kept(old, Vocabulary(bytes_folder), TALK, [])
    assert caught.value.code == "vocab.not-kept"
    old.write(tmp_path, ["he", "th"])
    with pytest.raises(ModelError) as caught:
        require_kept(old, Vocabulary(tmp_path), ["the theatre, she heaths"], [])
    assert caught.value.code == "vocab.not-kept"
