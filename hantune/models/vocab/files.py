"""The tokenizer of a folder as files, and the same files with more pieces: nothing else in them changes.

Two kinds of byte-pair encoding. SentencePiece (Llama 2) writes a blank as ``▁`` and joins any neighbours whose text is
a piece, best score first. Byte level (GPT-2, Llama 3, BLOOM) writes bytes as printable characters and joins the pairs
that its merges name, first merge first. Both come to the same ids when a piece has every way to it as a merge, and the
merges stand in the order of the scores.
"""

from __future__ import annotations

import itertools
import json
import shutil
import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hantune.errors import ModelError
from hantune.models.tokenizer import FILES, load_tokenizer, num_ids
from hantune.models.vocab.pieces import Word, overlaps_itself, ways

STALE = ("vocab.json", "merges.txt", "vocab.txt")
"""Other spellings of what stands in ``tokenizer.json``; they would lack the new pieces."""
CONTROL, USER_DEFINED = 3, 4
"""Kinds of pieces in SentencePiece's model file (``sentencepiece_model.proto``)."""


class Vocabulary:
    """The tokenizer in ``folder``: its pieces, how it cuts text, and how many ids it has."""

    def __init__(self, folder: Path) -> None:
        """Raises: ModelError ``vocab.unsupported`` and those of ``load_tokenizer``."""
        self.folder = folder
        self.tokenizer = load_tokenizer(folder)
        self.num_ids = num_ids(self.tokenizer)
        backend: Any = getattr(self.tokenizer, "backend_tokenizer", None)
        plan: dict[str, Any] = json.loads(backend.to_str()) if backend is not None else {"model": {"type": "none"}}
        if plan["model"]["type"] != "BPE":
            raise _unsupported(f"算法是 {plan['model']['type']}, 不是 BPE", folder)
        self.backend = backend
        self.is_byte_level = '"ByteLevel"' in json.dumps([plan["pre_tokenizer"], plan["decoder"]])
        if not self.is_byte_level and not plan["model"].get("byte_fallback"):
            raise _unsupported("不认识的字会变成 <unk>, 新旧词表没法对照", folder)
        self.pieces: dict[str, int] = plan["model"]["vocab"]
        self._added = plan["added_tokens"]
        self._parts = frozenset() if self.is_byte_level else frozenset(_parts(self.pieces))
        self._alphabet = _byte_alphabet()
        self._bytes = {character: byte for byte, character in enumerate(self._alphabet)}

    def spell(self, text: str) -> str:
        """``text`` as pieces are written: bytes as printable characters, or a blank as ``▁``."""
        if self.is_byte_level:
            return "".join(self._alphabet[byte] for byte in text.encode())
        return text.replace(" ", "▁")

    def read(self, piece: str) -> str:
        """The text of a piece; for a part of a character its bytes in hexadecimal."""
        if not self.is_byte_level:
            return piece.replace("▁", " ")
        found = bytes(map(self._byte_of, piece))
        try:
            return found.decode()
        except UnicodeDecodeError:
            return found.hex()

    def words(self, runs: Counter[str]) -> Iterator[Word]:
        """Each run as symbols, cut where the tokenizer cuts text before it joins anything."""
        for run, count in runs.items():
            for word in self._cut(run):
                yield Word(self.symbols(word), count)

    def cost(self, symbol: str) -> int:
        """How many tokens the old tokenizer needs for a symbol: more than one for a character without a piece."""
        return 1 if self.is_byte_level or symbol in self.pieces else len(symbol.encode())

    def _cut(self, run: str) -> list[str]:
        if not self.is_byte_level:
            return [run]
        return [word for word, _ in self.backend.pre_tokenizer.pre_tokenize_str(run)]

    def symbols(self, word: str) -> tuple[str, ...]:
        """The tokens of a word; a character that has no piece stands for its bytes."""
        if self.is_byte_level:
            return tuple(token.value for token in self.backend.model.tokenize(word))
        symbols: list[str] = []
        for is_known, characters in itertools.groupby(word, self.pieces.__contains__):
            part = "".join(characters)
            symbols += [token.value for token in self.backend.model.tokenize(part)] if is_known else part
        return tuple(symbols)

    def is_allowed(self, piece: str) -> bool:
        """Whether ``piece`` may be added: it starts with a whole character, and makes no old piece ambiguous."""
        if overlaps_itself(piece) or piece in self._parts:
            return False
        return not self.is_byte_level or not 0x80 <= self._byte_of(piece[0]) < 0xC0

    def _byte_of(self, character: str) -> int:
        return self._bytes[character]

    def old_ids(self, piece: str) -> list[int]:
        """What the old tokenizer makes of a piece (for byte level also of a part of a character)."""
        return [token.id for token in self.backend.model.tokenize(piece)]

    def write(self, out: Path, pieces: Sequence[str]) -> None:
        """The tokenizer's files in ``out`` with ``pieces`` behind all old ids, in the order of their worth."""
        for name in FILES:
            source = self.folder / name
            if name == "tokenizer.json" and source.is_file():
                _write_json(source, out / name, pieces, self.num_ids)
            elif name == "tokenizer.model" and source.is_file() and not self.is_byte_level:
                (out / name).write_bytes(self._extended_model(source.read_bytes(), pieces))
            elif source.is_file() and name not in STALE and name != "tokenizer.model":
                shutil.copyfile(source, out / name)

    def _extended_model(self, model: bytes, pieces: Sequence[str]) -> bytes:
        """SentencePiece's file with more pieces at its end: protobuf joins what is appended to what stands there."""
        processor = open_model(model)
        size = processor.get_piece_size()
        lowest = min(
            processor.get_score(number) for number in range(size) if processor.id_to_piece(number).strip("▁")
        )  # Llama 2's runs of blanks stand at -1e9, where float32 knows no neighbours
        added = {token["id"]: token for token in self._added}
        fill = []
        for number in range(size, self.num_ids):  # ids that the other file gives to tokens added later
            token = added.get(number, {"content": f"<unused_{number}>", "special": True})
            fill.append(_piece(token["content"], 0.0, CONTROL if token["special"] else USER_DEFINED))
        new = [_piece(piece, lowest - 1 - place, None) for place, piece in enumerate(pieces)]
        count = _field(2, _number_field(4, max(size, self.num_ids) + len(pieces)))  # trainer_spec.vocab_size
        return model + b"".join([*fill, *new, count])


def open_model(source: bytes | Path) -> Any:
    """SentencePiece's own reader of a ``tokenizer.model``.

    Raises: ModelError ``model.bad-tokenizer``.
    """
    from sentencepiece import SentencePieceProcessor

    content = source if isinstance(source, bytes) else source.read_bytes()
    processor = SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(content)
    except (RuntimeError, ValueError, OSError) as error:
        raise ModelError(
            "model.bad-tokenizer",
            "分词器打不开: 不是 SentencePiece 的 .model 文件",
            place=str(source) if isinstance(source, Path) else "tokenizer.model",
            hint="重新下载或拷贝这个文件",
        ) from error
    return processor


def _unsupported(what: str, folder: Path) -> ModelError:
    return ModelError(
        "vocab.unsupported",
        f"这个分词器的词表不能扩充: {what}",
        place=str(folder),
        hint="能扩充的是 SentencePiece BPE (Llama 2) 和字节级 BPE (Llama 3, BLOOM, Qwen)",
    )


def _parts(pieces: Iterable[str]) -> Iterator[str]:
    """The beginnings and ends of old pieces with characters beyond Latin: as a piece each would open a way to it."""
    for piece in pieces:
        if len(piece) > 1 and max(piece) >= "\u2e80":
            for cut in range(1, len(piece)):
                yield from (piece[:cut], piece[cut:])


def _write_json(source: Path, target: Path, pieces: Sequence[str], first_id: int) -> None:
    """``tokenizer.json`` with new pieces, and merges that lead to them from everywhere."""
    plan = json.loads(source.read_bytes())
    model = plan["model"]
    vocabulary: dict[str, int] = model["vocab"]
    # Tokens that were added behind the pieces must be found by name, or the backend would number them anew.
    vocabulary.update({token["content"]: token["id"] for token in plan["added_tokens"]})
    vocabulary.update({piece: first_id + place for place, piece in enumerate(pieces)})
    pairs = [way for piece in pieces for way in ways(piece, vocabulary)]
    is_text = bool(model["merges"]) and isinstance(model["merges"][0], str)
    model["merges"] += [" ".join(pair) for pair in pairs] if is_text else [list(pair) for pair in pairs]
    target.write_text(json.dumps(plan, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def _byte_alphabet() -> list[str]:
    """byte -> the printable character that stands for it in byte-level BPE."""
    from hantune.data.junctions import byte_level_alphabet

    table = byte_level_alphabet()
    return [table[byte] for byte in range(256)]


def _piece(text: str, score: float, kind: int | None) -> bytes:
    """One ``ModelProto.SentencePiece``: piece 1, score 2 (float), type 3 (normal when left out)."""
    body = _field(1, text.encode()) + b"\x15" + struct.pack("<f", score)
    return _field(1, body if kind is None else body + _number_field(3, kind))


def _field(number: int, content: bytes) -> bytes:
    """A protobuf field of bytes."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _number_field(number: int, value: int) -> bytes:
    """A protobuf field that is a number."""
    return _varint(number << 3) + _varint(value)


def _varint(value: int) -> bytes:
    """A number as protobuf writes it: 7 bits a byte, lowest first."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
