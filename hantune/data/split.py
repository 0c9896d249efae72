"""Which conversation is trained on, which is held out, which is left out: decided by a hash of its text and the seed.

Equal conversations get equal numbers, so they land on one side; a conversation keeps its side when the data grow; and
nothing but the numbers has to be remembered, eight bytes a conversation.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hantune.data.types import Conversation, Role

Draws = NDArray[np.uint64]
"""One number per conversation, uniform over 64 bits; shape ``[N]``."""
Mask = NDArray[np.bool_]
DIGEST = 16
"""Bytes behind a content id."""
MARKS: dict[Role, str] = {"user": "\x01", "assistant": "\x02", "system": "\x03"}
MIN_FOR_VAL = 20
"""From this many conversations on there is always something to validate on."""


def normal_text(messages: Iterable[tuple[Role, str]]) -> str:
    """What conversations of equal text share: each message behind the mark of its role; width, case, blanks aside."""
    text = "".join([part for role, text in messages for part in (MARKS[role], text)])
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())


def content_id(conversation: Conversation) -> str:
    """32 hexadecimal digits, equal for conversations of equal ``normal_text``."""
    normal = normal_text((message.role, message.text) for message in conversation.messages)
    return hashlib.blake2b(normal.encode(), digest_size=DIGEST).hexdigest()


def draws_of(digests: bytes, seed: int) -> Draws:
    """A number uniform over 64 bits for each ``DIGEST`` bytes, fixed by them and the seed."""
    firsts = np.frombuffer(digests, "<u8").reshape(-1, DIGEST // 8)[:, 0]
    return _mixed(firsts ^ np.uint64(draw("", seed)))


def draw(text: str, seed: int) -> int:
    """A number uniform over 64 bits, fixed by a text and the seed."""
    salt = seed.to_bytes(16, "little")
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8, salt=salt).digest(), "little")


def together(draws: Draws, keys: Sequence[NDArray[Any]]) -> Draws:
    """One draw for all conversations that must stay on one side: equal in any of ``keys``, or so by way of others.

    The draw of a lone conversation, and of equal ones, stays; others get one that hangs on the smallest of theirs, yet
    is not it, for a large group would nearly always be held out.
    """
    groups = [np.unique(key, return_inverse=True)[1].reshape(-1) for key in keys]
    low, high = draws.copy(), draws.copy()
    while True:
        before = low, high
        for group in groups:
            low, high = _spread(low, group, np.minimum), _spread(high, group, np.maximum)
        if (low == before[0]).all() and (high == before[1]).all():
            sides: Draws = np.where(low == high, draws, _mixed(low))
            return sides


def _spread(values: Draws, group: NDArray[np.int64], least: np.ufunc) -> Draws:
    """For each conversation the least (or greatest) value of its group."""
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(group[order]) > 0]) if len(group) else order
    best: Draws = least.reduceat(values[order], starts)[group] if len(group) else values
    return best


def _mixed(values: Draws) -> Draws:
    """Other numbers, as uniform as these. Source: the finalizer of splitmix64 (Steele et al., OOPSLA 2014)."""
    mixed: Draws = values + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed


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
