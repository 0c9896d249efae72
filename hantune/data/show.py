"""The loss mask as people see it: text by characters, what is learned in colour.

Tokens are grouped until they make whole characters, because a Han character is often three byte tokens; decoding token
by token would show garbage.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from hantune.data.tokens import Encoder
from hantune.data.types import Example

GREEN, GREY, RESET = "\x1b[32m", "\x1b[90m", "\x1b[0m"
STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Piece(NamedTuple):
    """Whole characters (or one control token), whether they are learned, and the tokens that make them."""

    text: str
    learn: bool
    ids: tuple[int, ...]


def mask_view(example: Example, encoder: Encoder) -> list[Piece]:
    """The example's text in pieces of whole characters; joined, they are the rendered text."""
    controls = encoder.control_ids
    at_start, after_control = encoder.has_prefix(after_control=False), encoder.has_prefix(after_control=True)
    pieces: list[Piece] = []
    waiting: list[int] = []
    data = b""
    has_prefix, learn_waiting = at_start, False
    for token, learn in zip(example.ids, example.mask, strict=True):
        if waiting and (token in controls or bool(learn) != learn_waiting):
            pieces.append(Piece(_visible(data), learn_waiting, tuple(waiting)))
            waiting, data = [], b""
        if token in controls:
            pieces.append(Piece(controls[token], bool(learn), (token,)))
            has_prefix = after_control
            continue
        new = encoder.bytes_of[token]
        data += new.removeprefix(b" ") if has_prefix else new
        has_prefix = False
        waiting.append(token)
        learn_waiting = bool(learn)
        if not _is_unfinished(data):
            pieces.append(Piece(_visible(data), learn_waiting, tuple(waiting)))
            waiting, data = [], b""
    if waiting:
        pieces.append(Piece(_visible(data), learn_waiting, tuple(waiting)))
    return pieces


def _is_unfinished(data: bytes) -> bool:
    """Whether ``data`` ends inside a character that further bytes could finish."""
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data"
    return False


def _visible(data: bytes) -> str:
    """The text of ``data``; bytes that are no text (an answer cut inside a character) as ``\\xe4``."""
    return data.decode(errors="backslashreplace")


def coloured(pieces: Sequence[Piece], colour: bool, *, with_ids: bool = False) -> str:
    """The pieces as one text: learned green, the rest grey; without colour the learned part stands in 【】.

    ``with_ids`` puts the ids of each piece behind it: ``你[29871 30919]``.
    """
    return "".join(_runs(pieces, colour, with_ids))


def _runs(pieces: Sequence[Piece], colour: bool, with_ids: bool) -> Iterator[str]:
    for learn, run in groupby(pieces, key=lambda piece: piece.learn):
        text = "".join(printable(p.text) + (f"[{' '.join(map(str, p.ids))}]" if with_ids else "") for p in run)
        if colour:
            yield f"{GREEN if learn else GREY}{text}{RESET}"
        else:
            yield f"【{text}】" if learn else text


def printable(text: str) -> str:
    """``text`` with characters that steer a terminal spelled out."""
    return STEERING.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
