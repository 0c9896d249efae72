"""What an expanded tokenizer must keep, checked on real text, and what it gains, measured there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from hantune.errors import ModelError
from hantune.log import console
from hantune.models.call import evaluating
from hantune.models.tokenizer import load_tokenizer
from hantune.models.vocab.files import Vocabulary, open_model
from hantune.models.vocab.pieces import RUN

PLAIN = (
    "Hello, how are you today? I'm fine -- thank you!", "def add(a, b):\n    return a + b  # sum\n",
    "for (int i = 0; i < 10; ++i) {\n\tprintf(\"%d\\n\", i);\n}", "SELECT * FROM users WHERE id = 42;",
    "https://example.com/a?b=1&c=2", "3.14159 + 2.71828 = 5.85987", "naïve café, Привет, señor", "<b>bold</b>\n\n",
)  # fmt: skip
"""English, code, numbers, Latin and Cyrillic: no new piece may change them."""
SEQUENCE = 512
"""Characters of one text that bits are measured on; the same text for both vocabularies."""
BITS_CHARACTERS = 6_000


@dataclass(frozen=True, kw_only=True)
class Kept:
    """How many texts were compared, and how many new pieces the new tokenizer never makes of their own text."""

    texts: int
    plain: int
    compared_with_sentencepiece: int
    unreachable: int


def require_kept(old: Vocabulary, new: Vocabulary, texts: Sequence[str], pieces: Sequence[str]) -> Kept:
    """The counts, if ``new`` is the old tokenizer with more pieces.

    Old ids fixed; text without East Asian characters unchanged; ids back to the same text; ids equal to
    SentencePiece's wherever the old tokenizer's were.

    Raises: ModelError ``vocab.not-kept`` naming the first text.
    """
    folder = new.folder
    moved = [piece for piece, number in old.pieces.items() if new.pieces.get(piece) != number]
    if moved or old.tokenizer.added_tokens_decoder != new.tokenizer.added_tokens_decoder:
        raise _not_kept("旧词的编号变了", folder, (moved or ["特殊词元"])[0])
    plain = [*PLAIN, *(text for text in texts if not RUN.search(text))]
    every = [*plain, *texts]
    before, after = _ids(old, every), _ids(new, every)
    for text, one, other in zip(every, before, after, strict=True):
        if old.backend.decode(one) != new.backend.decode(other):
            raise _not_kept("编码再解码, 文字变了", folder, text)
    for text, one, other in zip(plain, before, after, strict=False):
        if one != other:
            raise _not_kept("没有汉字的文字, 编号也变了", folder, text)
    compared = _compare_with_sentencepiece(old, folder, every, before, after)
    unreachable = sum(len(new.old_ids(piece)) != 1 for piece in pieces)
    return Kept(texts=len(texts), plain=len(plain), compared_with_sentencepiece=compared, unreachable=unreachable)


def _ids(vocabulary: Vocabulary, texts: Sequence[str]) -> list[list[int]]:
    encodings = vocabulary.backend.encode_batch_fast(list(texts), add_special_tokens=False)
    return [encoding.ids for encoding in encodings]


def _compare_with_sentencepiece(
    old: Vocabulary, folder: Path, texts: Sequence[str], before: list[list[int]], after: list[list[int]]
) -> int:
    """How many texts have the same ids by ``tokenizer.model``; 0 where there is no such file."""
    model = folder / "tokenizer.model"
    if old.is_byte_level or not model.is_file():
        return 0
    one, other = open_model(old.folder / "tokenizer.model"), open_model(model)
    equal = [place for place, text in enumerate(texts) if one.encode(text) == before[place]]
    for place in equal:
        if other.encode(texts[place]) != after[place]:
            raise _not_kept("tokenizer.json 和 tokenizer.model 编出来不一样", folder, texts[place])
    return len(equal)


def _not_kept(what: str, folder: Path, text: str) -> ModelError:
    return ModelError(
        "vocab.not-kept",
        f"扩充后的分词器不对: {what}, 例如 {text[:40]!r}. 没有留下任何文件",
        place=str(folder),
        hint="换一份分词器文件再试; 还不行, 把这条信息和 tokenizer_config.json 发给维护者",
    )


def tokens_per_character(vocabulary: Vocabulary, texts: Sequence[str]) -> float:
    """Tokens a character of ``texts``, special tokens left out."""
    return sum(map(len, _ids(vocabulary, texts))) / max(1, sum(map(len, texts)))


def pick_bits_texts(texts: Sequence[str], limit: int = BITS_CHARACTERS) -> list[str]:
    """Texts for ``bits_per_character``: evenly from all, each cut to ``SEQUENCE`` characters, ``limit`` in all."""
    usable = [text[:SEQUENCE] for text in texts if len(text) >= 4]
    step = max(1, round(sum(map(len, usable)) / limit)) if usable else 1
    return usable[::step]


@torch.no_grad()
def bits_per_character(model: Any, folder: Path, texts: Sequence[str]) -> float:
    """Bits that the model needs a character of ``texts``, each read from its own start; lower is better."""
    tokenizer = load_tokenizer(folder)
    nats, characters = 0.0, 0
    with evaluating(model), console.progress("量效果", len(texts), unit="段") as bar:
        for text in texts:
            ids = tokenizer.encode(text)
            if ids and ids[0] != tokenizer.bos_token_id:  # something must stand before the first token
                ids = [tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id, *ids]
            tokens_1T = torch.tensor([ids])
            logits_TV = model(input_ids=tokens_1T[:, :-1], use_cache=False).logits[0].float()
            nats += F.cross_entropy(logits_TV, tokens_1T[0, 1:], reduction="sum").item()
            characters += len(text)
            bar.advance()
    return nats / math.log(2) / max(1, characters)
