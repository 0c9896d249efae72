"""Token ids become text while they are made: every character once, whole, and as soon as it is certain.

A token is a piece of bytes, and a Chinese character is often three of them. So ids become bytes, bytes go through an
incremental UTF-8 decoder, and what is held back is only an unfinished character or what may be the start of a stop
string. Each token costs the same however long the answer is. The prompt never enters here (its text would leak).
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hantune.data.tokens import Encoder


class Pieces:
    """The bytes of every token of one tokenizer; control tokens have none."""

    def __init__(self, encoder: Encoder) -> None:
        self._bytes_of = encoder.bytes_of
        self._silent = frozenset(encoder.control_ids)
        self.end = encoder.vocab_size
        """Ids from here on are rows of the embedding without a piece (BLOOM has 200 of them)."""
        self.drops_first_blank = self._drops_first_blank(encoder)
        """Whether a text begins without the blank that its first piece carries (SentencePiece's dummy prefix)."""

    def __getitem__(self, token: int) -> bytes:
        """The bytes of one token wherever it stands, a blank in front included."""
        return b"" if token in self._silent or token >= self.end else self._bytes_of[token]

    def _drops_first_blank(self, encoder: Encoder) -> bool:
        token = next((token for token in range(self.end) if self[token].startswith(b" ")), None)
        return token is not None and encoder.decode([token]).encode() != self[token]

    def text(self, ids: Sequence[int]) -> str:
        """The text of all ``ids`` at once: the tokenizer's own wherever their bytes are UTF-8.

        Where they are not, only the torn bytes become U+FFFD, while the Rust decoder blanks the whole run of bytes.
        """
        stream = TextStream(self)
        return stream.feed_all(ids) + stream.finish(keep_torn=True)


class TextStream:
    """Feed ids, get text. ``stopped`` is set once a stop string came; nothing of it or after it comes out.

    ``strip``: without the white space around the whole text (a template puts it there, it is not the answer's).
    ``goes_on``: the text continues another one, so that a blank at its start is a real one.
    Law: what ``feed`` and ``finish`` return, joined, is ``Pieces.text`` of all ids, cut at the first stop string.
    """

    def __init__(
        self, pieces: Pieces, stops: Iterable[str] = (), *, strip: bool = False, goes_on: bool = False
    ) -> None:
        self._pieces = pieces
        self._stops = tuple(stops)
        self._strip = strip
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self._at_first_blank = pieces.drops_first_blank and not goes_on
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
