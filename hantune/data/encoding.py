"""Which encoding a text file has, judged from its first bytes that are not ASCII; and opening it so.

GB18030 decodes almost any bytes, so it is believed only where the characters it gives are common ones; UTF-8 is
believed where most lines with Chinese are valid UTF-8 (one torn line does not turn a whole file into mojibake).
A byte that does not decode becomes a lone surrogate, which no good text holds: readers reject the row it stands in.
"""

from __future__ import annotations

import codecs
import io
import re
from pathlib import Path
from typing import IO

from charset_normalizer import from_bytes

from hantune.data.packed import Seen, open_bytes
from hantune.errors import DataError

SAMPLE_BYTES = 1 << 16
COMMON_SHARE = 0.5
"""Share of characters that must be in GB2312 for GB18030 to be believed (text in traditional characters has fewer)."""
ASCII_SHARE = 0.9
"""Share of lines that must be ASCII for the others to be taken for torn ones."""
NAMES = {
    "utf-8": "UTF-8",
    "utf-8-sig": "UTF-8 (BOM)",
    "gb18030": "GB18030/GBK",
    "utf-16": "UTF-16 (BOM)",
    "utf-16-le": "UTF-16 LE",
    "utf-16-be": "UTF-16 BE",
}
_SEPARATOR = re.compile(rb'[\n\t",]')
"""Bytes that are no part of a character in either encoding."""
OTHERS = frozenset({"big5", "big5hkscs", "cp950", "shift_jis", "cp932", "euc_jp", "euc_kr", "cp949", "utf_32"})
"""Encodings a guess of charset-normalizer is followed for; its single-byte guesses fit any bytes at all."""
BROKEN = re.compile("[\ud800-\udfff]")
"""What marks bytes that did not decode, and halves of emoji that an exporter tore apart."""


def _mark(error: UnicodeError) -> tuple[str, int]:
    """A decoding error handler: undecodable bytes become one lone surrogate."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "\udcff", max(error.end, error.start + 1)


codecs.register_error("hantune-mark", _mark)


def open_text(path: Path, encoding: str, member: str = "", seen: Seen | None = None) -> IO[str]:
    """The file as text with its own line ends; undecodable bytes are lone surrogates."""
    file = open_bytes(path, member, seen)
    return io.TextIOWrapper(file, encoding=encoding, errors="hantune-mark", newline="\n")


def telling_bytes(path: Path, member: str = "") -> bytes:
    """The first 64 KB, or where they are all ASCII the first block that is not, up to a line end if one is near."""
    with open_bytes(path, member) as file:
        first = block = file.read(SAMPLE_BYTES)
        while block and block.isascii() and b"\0" not in block:
            block = file.read(SAMPLE_BYTES)
        return (block + file.readline(SAMPLE_BYTES)) if block else first


def sniff(path: Path, member: str = "") -> str:
    """The codec name: ``utf-8``, ``utf-8-sig``, ``gb18030``, ``utf-16`` and kin.

    Raises: DataError ``source.encoding`` when the bytes are no text hantune knows.
    """
    with open_bytes(path, member) as file:
        start = file.read(4)
    if start.startswith(codecs.BOM_UTF8):
        return "utf-8-sig"
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    sample = telling_bytes(path, member)
    found = _utf16(sample) or _utf8_or_gb(sample) or _nearly_ascii(sample) or _guess(sample)
    if found is None:
        raise DataError(
            "source.encoding",
            "认不出文字编码: 不是 UTF-8, GB18030/GBK 或 UTF-16, 也可能根本不是文字文件",
            place=str(path),
            hint="用记事本打开, 另存为, 编码选 UTF-8, 再运行一次",
        )
    return found


def _utf16(sample: bytes) -> str | None:
    """UTF-16 without a mark: its ASCII characters have a NUL on every second byte, always the same one."""
    even, odd = sample[0::2].count(0), sample[1::2].count(0)
    if max(even, odd) < len(sample) / 20 or min(even, odd) > max(even, odd) / 10:
        return None
    return "utf-16-le" if odd > even else "utf-16-be"


def _utf8_or_gb(sample: bytes) -> str | None:
    """Whichever of the two decodes most of the pieces (lines, cells, strings) that hold more than ASCII."""
    pieces = [piece for piece in _SEPARATOR.split(sample) if not piece.isascii()]
    if sum(_decodes(piece, "utf-8") for piece in pieces) * 2 >= len(pieces):
        return "utf-8"
    if sum(_decodes(piece, "gb18030") for piece in pieces) * 2 < len(pieces):
        return None
    text = "".join(filter(lambda letter: letter > "\x7f", sample.decode("gb18030", "ignore")))
    common = len(text.encode("gb2312", "ignore")) / 2
    return "gb18030" if common >= COMMON_SHARE * len(text) else None


def _nearly_ascii(sample: bytes) -> str | None:
    """UTF-8 where nearly all lines are ASCII: the others are torn, and each is a reject of its own."""
    lines = [line for line in sample.split(b"\n") if line.strip()]
    is_text = b"\0" not in sample
    return "utf-8" if is_text and sum(map(bytes.isascii, lines)) >= ASCII_SHARE * len(lines) else None


def _decodes(piece: bytes, encoding: str) -> bool:
    """Whether a piece is valid; a character that the end of the sample cuts may be."""
    try:
        codecs.getincrementaldecoder(encoding)().decode(piece)
    except UnicodeDecodeError:
        return False
    return True


def _guess(sample: bytes) -> str | None:
    """What charset-normalizer says, if it is one of the East Asian encodings."""
    best = from_bytes(sample).best()
    return best.encoding if best is not None and best.encoding in OTHERS else None
