"""A tokenizer as GGUF keeps it: pieces by id with kinds and scores, or with merges.

Two kinds: ``llama`` is SentencePiece's BPE, which joins by score; ``gpt2`` is byte-level BPE, which joins by merges
after a split that GGUF only names (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hantune.errors import RefusedError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""GGUF's numbers for the kinds of tokens; SentencePiece has the same."""
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLITS = {_WORDS + r"\p{N}{1,3}" + _REST: "llama-bpe", _WORDS + r"\p{N}" + _REST: "qwen2"}
"""The regular expression of a byte-level tokenizer -> what llama.cpp calls it."""


@dataclass
class GgufTokens:
    """Everything of a tokenizer that GGUF keeps; ``pieces[id]`` is its text as the tokenizer itself writes it."""

    model: str
    pieces: list[str]
    kinds: list[int]
    scores: list[float] = field(default_factory=list)
    merges: list[str] = field(default_factory=list)
    split: str = "default"
    adds_blank: bool = True


def gguf_tokens(folder: Path, tokenizer: Any, rows: int) -> GgufTokens:
    """The tokenizer of ``folder`` (loaded: ``tokenizer``) for a model with ``rows`` embedding rows.

    Raises: RefusedError ``export.unknown-tokenizer``.
    """
    if (folder / "tokenizer.model").is_file():
        found = _sentencepiece(folder / "tokenizer.model")
    elif (folder / "tokenizer.json").is_file():
        found = _byte_level(folder / "tokenizer.json")
    else:
        raise _unknown(folder, "没有 tokenizer.model 也没有 tokenizer.json")
    special = set(tokenizer.all_special_ids)
    vocabulary = tokenizer.get_vocab()
    added = {int(number): token for number, token in tokenizer.added_tokens_decoder.items()}
    for piece, number in sorted(vocabulary.items(), key=lambda item: item[1]):
        if number in added or number >= len(found.pieces):
            _put(found, number, piece, CONTROL if number in special or added[number].special else USER_DEFINED)
    while len(found.pieces) < rows:
        _put(found, len(found.pieces), f"[PAD{len(found.pieces)}]", UNUSED)
    names = {number: piece for piece, number in vocabulary.items()}
    wrong = [number for number, piece in enumerate(found.pieces) if names.get(number, piece) != piece]
    if wrong or len(found.pieces) != rows:
        raise _unknown(folder, f"编号 {wrong[:3]} 的词元两处不同, 或者比模型的 {rows} 行多")
    return found


def _put(tokens: GgufTokens, number: int, piece: str, kind: int) -> None:
    """Set one token; ids between the end and it stay unused."""
    while len(tokens.pieces) <= number:
        tokens.pieces.append(f"[PAD{len(tokens.pieces)}]")
        tokens.kinds.append(UNUSED)
        tokens.scores.append(-1000.0)
    if tokens.kinds[number] != UNKNOWN:
        tokens.pieces[number], tokens.kinds[number] = piece, kind


def _sentencepiece(path: Path) -> GgufTokens:
    """From SentencePiece's own file."""
    from sentencepiece import sentencepiece_model_pb2

    protocol: Any = sentencepiece_model_pb2
    model = protocol.ModelProto.FromString(path.read_bytes())
    if model.trainer_spec.model_type != model.trainer_spec.BPE:
        raise _unknown(path.parent, "tokenizer.model 不是 BPE")
    return GgufTokens(
        model="llama",
        pieces=[piece.piece for piece in model.pieces],
        kinds=[int(piece.type) for piece in model.pieces],
        scores=[float(piece.score) for piece in model.pieces],
        adds_blank=bool(model.normalizer_spec.add_dummy_prefix),
    )


def _byte_level(path: Path) -> GgufTokens:
    """From the file of the Rust library."""
    described = json.loads(path.read_bytes())
    model = described["model"]
    split = _split_name(described.get("pre_tokenizer") or {})
    if model.get("type") != "BPE" or split is None:
        raise _unknown(path.parent, "它的切分方式 llama.cpp 里没有名字")
    order = sorted(model["vocab"].items(), key=lambda item: item[1])
    found = GgufTokens(model="gpt2", pieces=[], kinds=[], split=split)
    for piece, number in order:
        _put(found, number, piece, NORMAL)
    found.merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    return found


def _split_name(pre_tokenizer: dict[str, Any]) -> str | None:
    """What llama.cpp calls a way of splitting text before the merges; None where it has no name that we know."""
    steps = pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    patterns = [step["pattern"].get("Regex") for step in steps if step.get("type") == "Split"]
    byte_level = [step for step in steps if step.get("type") == "ByteLevel"]
    if not byte_level or len(steps) != len(patterns) + 1:
        return None
    if byte_level[0].get("use_regex", True):
        return "gpt-2" if not patterns and not byte_level[0].get("add_prefix_space") else None
    return SPLITS.get(patterns[0]) if len(patterns) == 1 else None


def _unknown(folder: Path, what: str) -> RefusedError:
    return RefusedError(
        "export.unknown-tokenizer",
        f"这个分词器写不进 GGUF: {what}. 硬写进去, llama.cpp 会切出别的词元, 回答会变坏",
        place=str(folder),
        hint="用 --to vllm: 它读的就是原来的分词器文件",
    )
