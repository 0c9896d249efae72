"""Token ids become text while they are made: every character once, whole, and as soon as it is certain.

A token is a piece of bytes, and a Chinese character is often three of them. So ids become bytes, bytes go through an
incremental UTF-8 decoder, and what is held back is only an unfinished character or what may be the start of a stop
string. Each token costs the same however long the answer is. The prompt never enters here (its text would leak).
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
"""How SentencePiece names the byte that no piece covers."""


class Pieces:
    """The bytes of every token of one tokenizer; special tokens have none."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        added = getattr(tokenizer, "added_tokens_decoder", {})
        special = {number for number, token in added.items() if token.special}
        self._known: dict[int, bytes] = dict.fromkeys(special | set(tokenizer.all_special_ids), b"")
        self._added = {number: token.content for number, token in added.items()}
        self._kind = _decoder_kind(tokenizer)
        vocabulary = tokenizer.get_vocab()
        self.end = max(vocabulary.values()) + 1
        """Ids from here on are rows of the embedding without a piece (BLOOM has 200 of them)."""
        self.drops_first_blank = self._kind == "pieces" and self._drops_first_blank(vocabulary)

    def __getitem__(self, token: int) -> bytes:
        """The bytes of one token wherever it stands (a blank in front included)."""
        if token not in self._known:
            self._known[token] = self._bytes(token)
        return self._known[token]

    def _bytes(self, token: int) -> bytes:
        piece = self._added.get(token) or self._tokenizer.convert_ids_to_tokens(token)
        if piece is None:  # a row of the embedding that the tokenizer has no piece for
            return b""
        if token in self._added:
            return piece.encode("utf-8", "replace")
        if self._kind == "bytes":
            return bytes(_BYTE_OF[character] for character in piece if character in _BYTE_OF)
        if self._kind == "pieces":
            byte = BYTE_PIECE.fullmatch(piece)
            return bytes([int(byte[1], 16)]) if byte else piece.replace("▁", " ").encode("utf-8", "replace")
        # Neither of the two known ways: what the tokenizer itself adds to a neutral text.
        neutral = self._tokenizer.encode("a", add_special_tokens=False)
        before, after = self._tokenizer.decode(neutral), self._tokenizer.decode([*neutral, token])
        return str(after.removeprefix(before)).encode("utf-8", "replace")

    def _drops_first_blank(self, vocabulary: dict[str, int]) -> bool:
        """Whether this tokenizer's text begins without the blank that its first piece carries."""
        piece = next((piece for piece in vocabulary if piece.startswith("▁")), None)
        return piece is not None and self._tokenizer.decode([vocabulary[piece]]) != piece.replace("▁", " ")

    def text(self, ids: Sequence[int]) -> str:
        """The text of all ``ids`` at once: the tokenizer's own wherever their bytes are UTF-8.

        Where they are not, only the torn bytes become U+FFFD, while the Rust decoder blanks the whole run of bytes.
        """
        stream = TextStream(self)
        return stream.feed_all(ids) + stream.finish(keep_torn=True)


class TextStream:
    """Feed ids, get text. ``stopped`` is set once a stop string came; nothing of it or after it comes out.

    ``strip``: without the white space around the whole text (a template puts it there, it is not the answer's).
    Law: what ``feed`` and ``finish`` return, joined, is ``Pieces.text`` of all ids, cut at the first stop string.
    """

    def __init__(self, pieces: Pieces, stops: Iterable[str] = (), *, strip: bool = False) -> None:
        self._pieces = pieces
        self._stops = tuple(stops)
        self._strip = strip
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self._at_first_blank = pieces.drops_first_blank
        self._has_spoken = False
        self.stopped = False

    def feed(self, token: int) -> str:
        """The text that this token makes certain, often ''."""
        if self.stopped:
            return ""
        return self._take(self._decoder.decode(self._pieces[token]))

    def feed_all(self, tokens: Iterable[int]) -> str:
        return "".join([self.feed(token) for token in tokens])

    def finish(self, *, keep_torn: bool = False) -> str:
        """What was held back. An unfinished character at the end is dropped, or U+FFFD with ``keep_torn``."""
        if self.stopped:
            return ""
        rest = self._decoder.decode(b"", final=True)
        text = self._take(rest if keep_torn else "")
        held, self._held = self._held, ""
        return text + self._speak(held.rstrip() if self._strip else held)

    def _take(self, text: str) -> str:
        """Add decoded text to what is held; return the part that is certain."""
        if self._at_first_blank and text:
            text = text.removeprefix(" ")
            self._at_first_blank = False
        if not text:
            return ""
        self._held += text
        # The stop that is complete first counts, so that it does not matter how tokens cut the text.
        found = [(at + len(stop), at) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            certain = self._held[: min(found)[1]]
            self._held = ""
            return self._speak(certain.rstrip() if self._strip else certain)
        cut = len(self._held) - self._doubtful()
        certain, self._held = self._held[:cut], self._held[cut:]
        return self._speak(certain)

    def _speak(self, text: str) -> str:
        if self._strip and not self._has_spoken:
            text = text.lstrip()
        self._has_spoken = self._has_spoken or bool(text)
        return text

    def _doubtful(self) -> int:
        """How many characters at the end may still become a stop string, or white space at the very end."""
        most = max((_overlap(self._held, stop) for stop in self._stops), default=0)
        if self._strip:
            before = self._held[: len(self._held) - most]
            most = len(self._held) - len(before.rstrip())
        return most


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of ``text`` that begins ``stop``."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)


def _decoder_kind(tokenizer: Any) -> str:
    """``bytes`` (byte-level BPE: BLOOM, Llama 3), ``pieces`` (SentencePiece: Llama 2), or ``other``."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    decoder = getattr(backend, "decoder", None)
    if backend is None:
        return "pieces"
    if decoder is None:
        return "other"
    description = json.loads(decoder.__getstate__())
    kinds = {part["type"] for part in description.get("decoders", [description])}
    if "ByteLevel" in kinds:
        return "bytes"
    is_plain = any("▁" in json.dumps(part, ensure_ascii=False) for part in description.get("decoders", [description]))
    return "pieces" if "ByteFallback" in kinds or "Metaspace" in kinds or is_plain else "other"


def _byte_characters() -> dict[str, int]:
    """The printable character that stands for each byte in byte-level BPE. Source: GPT-2's ``bytes_to_unicode``."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + number): byte for number, byte in enumerate(others)}


_BYTE_OF = _byte_characters()
