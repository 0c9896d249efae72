"""Which conversation is trained on, which is held out, which is left out: decided by a hash of its text and the seed.

Equal conversations get equal numbers, so they land on one side; a conversation keeps its side when the data grow; and
nothing but the numbers has to be remembered, eight bytes a conversation.
"""

from __future__ import annotations

import hashlib
import unicodedata

import numpy as np
from numpy.typing import NDArray

from hantune.data.types import Conversation

Draws = NDArray[np.uint64]
"""One number per conversation, uniform over 64 bits; shape ``[N]``."""
Mask = NDArray[np.bool_]
MIN_FOR_VAL = 20
"""From this many conversations on there is always something to validate on."""


def content_id(conversation: Conversation) -> str:
    """32 hexadecimal digits, equal for conversations of equal text (width, case and blanks aside)."""
    text = "\x01".join([part for message in conversation.messages for part in (message.role, message.text)])
    normal = "".join(unicodedata.normalize("NFKC", text).casefold().split())
    return hashlib.blake2b(normal.encode(), digest_size=16).hexdigest()


def draw(id: str, seed: int) -> int:
    """A number uniform over 64 bits, fixed by the conversation's text and the seed."""
    salt = seed.to_bytes(16, "little")
    return int.from_bytes(hashlib.blake2b(id.encode(), digest_size=8, salt=salt).digest(), "little")


def choose_val(draws: Draws, share: float) -> Mask:
    """Which conversations are held out: those with draws below ``share``; never none of 20 or more, never all."""
    count = len(draws)
    nobody, everybody = np.zeros(count, dtype=bool), np.ones(count, dtype=bool)
    if share in (0, 1) or not count:
        return everybody if share else nobody
    is_val: Mask = draws < np.uint64(share * 2**64)
    if is_val.any() and not is_val.all():
        return is_val
    if count < MIN_FOR_VAL:
        return nobody
    last = max(1, round(count * share)) - 1
    chosen: Mask = (draws <= np.partition(draws, last)[last]) & (draws < draws.max())
    return chosen


def choose_sample(draws: Draws, among: Mask, count: int | None) -> Mask:
    """Which ``count`` of ``among`` are used: those with the smallest draws, so a larger sample contains a smaller."""
    if count is None or int(among.sum()) <= count:
        return among
    places = np.flatnonzero(among)
    chosen = np.zeros(len(draws), dtype=bool)
    chosen[places[np.argsort(draws[places], kind="stable")[:count]]] = True
    return chosen
