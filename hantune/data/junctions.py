"""The proof for a tokenizer, read from its ``tokenizer.json``: between which characters no token ever stands.

Two things part a text. Merges: a token crosses a border only if some merge does, and that merge joins a piece which
ends with the left character (or is nothing but its last bytes) to one that begins with the right character (or is
nothing but its first bytes). And the expression that splits a text before BPE: for well known ones ``FAMILIES`` says
between which classes of characters a text can be cut so that each half is split as before.

    |   always      ?   where no merge joins the two      =   never, as they are split together
                    !   the same, but they may be split    +   never

These expressions look at nothing behind them and, after blanks, at one character ahead. So a cut is right where a
match always ends (letters before a mark), or where it would only make one match into two that stand next to each other
(letters after letters, letters after one mark). Contractions (``'s``) would break this: ``'`` is wide, and there is no
border near it; nor near a character that NFC may change, or whose class was not asked for.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from hantune.data.borders import APART, BLANK, BORDER, BY_MERGES, EDGE, SOMEHOW, WIDE, Borders, Joins, Prefix, to_points
from hantune.data.words import Array

LARGEST = 1 << 28
"""Pairs in the table; a vocabulary that needs more is left to the tokenizer."""
KNOWN = (*range(0xD800), *range(0xE000, 0x10000), *range(0x1F000, 0x1FB00))
"""Code points whose class is asked for; the rest are rare enough to be wide."""
_ALWAYS = {"|": APART, "?": APART, "!": APART, "=": BY_MERGES, "+": SOMEHOW}
_MERGED = {"|": APART, "?": BY_MERGES, "!": SOMEHOW, "=": BY_MERGES, "+": SOMEHOW}
"""How neighbours are joined by each rule, and where a merge joins them."""
ANY = b""
"""What every character ends and begins with."""
Side = str | bytes
"""A character, or its last (first) bytes."""


class Family(NamedTuple):
    """An expression that splits texts, the classes of characters that it tells apart, and where borders are."""

    expression: str
    classes: tuple[str, ...]
    """The first that matches counts; there is one more class for what none matches."""
    borders: tuple[str, ...]
    """A row for each class on the left side, a column for each on the right."""


_LETTERS = (r"\p{L}", r"\p{N}", r"[\r\n]", r"\s")
_CONTRACTIONS = "'s|'t|'re|'ve|'m|'ll|'d"
_TIKTOKEN = (
    rf"(?i:{_CONTRACTIONS})|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_GPT2 = rf"{_CONTRACTIONS}| ?\p{{L}}+| ?\p{{N}}+| ?[^\s\p{{L}}\p{{N}}]+|\s+(?!\S)|\s+"
_BLOOM = "[^(\\s|[.,!?…。，、।۔،])]"
FAMILIES = (
    Family(_TIKTOKEN % "{1,3}", _LETTERS, ("?||||", "|+|||", "||++|", "=++++", "?|+|+")),  # Llama 3, GLM 4
    Family(_TIKTOKEN % "", _LETTERS, ("?||||", "|||||", "||++|", "=++++", "?|+|+")),  # Qwen 2, 2.5 and 3
    Family(_GPT2, _LETTERS, ("?||||", "|?|||", "+++++", "+++++", "||||?")),
    Family(f" ?{_BLOOM}+", (_BLOOM, " "), ("?||", "=++", "|++")),
)


def find_borders(plan: Mapping[str, Any], bare: Any, controls: Sequence[int]) -> Borders | None:
    """The tables of a tokenizer (its ``tokenizer.json`` as data), or None where it does not keep to what they need.

    Needed: BPE over characters or bytes, and nothing done to a text but what is known here to keep to the borders.
    """
    model, family = plan["model"], _family(plan["pre_tokenizer"])
    if model["type"] != "BPE" or any(
        model.get(key) for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix")
    ):
        return None
    joins = _joins_of_pieces(plan) if family is None else _joins_of_bytes(plan, bare, family)
    return Borders(joins, bare, controls, _prefix(plan)) if joins else None


def _merges(plan: Mapping[str, Any]) -> list[Sequence[str]]:
    return [merge.split(" ", 1) if isinstance(merge, str) else merge for merge in plan["model"]["merges"]]


# ---- SentencePiece --------------------------------------------------------------------------------------------------


def _joins_of_pieces(plan: Mapping[str, Any]) -> Joins | None:
    """For BPE with a token for every byte that no merge touches, ``▁`` for blanks and in front, and no added words."""
    model = plan["model"]
    if not (_is_normal(plan["normalizer"]) and _is_metaspace(plan["pre_tokenizer"])) or model.get("ignore_merges"):
        return None
    of_bytes = {f"<0x{byte:02X}>" for byte in range(256)}
    if not (model.get("byte_fallback") and of_bytes <= model["vocab"].keys()):
        return None
    if not all(token["special"] for token in plan["added_tokens"]):
        return None
    merges = _merges(plan)
    if any(left in of_bytes or right in of_bytes for left, right in merges):
        return None
    junctions = {(left[-1], right[0]) for left, right in merges}
    touched = [ord(letter) for pair in junctions for letter in pair]
    class_of = np.full(BORDER, -1, np.int8)
    class_of[touched] = 0
    class_of[ord(BLANK)] = 1
    blanks = "?!" if plan["pre_tokenizer"] else "??"
    joins = _joins(class_of, (blanks, blanks), junctions, EDGE)
    if joins is not None:
        for each in (joins.left, joins.right, joins.spelling):  # a blank is written as ▁
            each[0x20] = each[ord(BLANK)]
    return joins


def _prefix(plan: Mapping[str, Any]) -> Prefix:
    """When the tokenizer puts a ``▁`` before a text."""
    if '"Prepend"' in json.dumps(plan["normalizer"]):
        return "always"
    splitter = plan["pre_tokenizer"] or {}
    return "unless-there" if splitter.get("prepend_scheme", "never") != "never" else "never"


def _is_normal(node: Any) -> bool:
    """Whether a normalizer does nothing but write ``▁``."""
    if node is None:
        return True
    if node["type"] == "Sequence":
        return all(map(_is_normal, node["normalizers"]))
    if node["type"] == "Prepend":
        return bool(node["prepend"] == BLANK)
    return bool(node["type"] == "Replace" and node["pattern"] == {"String": " "} and node["content"] == BLANK)


def _is_metaspace(node: Any) -> bool:
    """Whether a pre-tokenizer splits at blanks at most."""
    return node is None or (node["type"] == "Metaspace" and node["replacement"] == BLANK)


# ---- bytes ----------------------------------------------------------------------------------------------------------


def byte_level_alphabet() -> dict[int, str]:
    """byte -> the printable character that stands for it in byte-level BPE (Radford et al. 2019, ``encoder.py``)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


_TO_BYTE = {ord(letter): byte for byte, letter in byte_level_alphabet().items()}


def _family(node: Any) -> Family | None:
    """The family of a pre-tokenizer that splits by a known expression, and then writes bytes as letters."""
    parts = node["pretokenizers"] if node and node["type"] == "Sequence" else [node]
    last = parts[-1]
    if not last or last["type"] != "ByteLevel" or last["add_prefix_space"] or last["use_regex"] != (len(parts) == 1):
        return None
    splits = parts[:-1] or [_split(_GPT2)]
    return next((family for family in FAMILIES if splits == [_split(family.expression)]), None)


def _split(expression: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False}


def _joins_of_bytes(plan: Mapping[str, Any], bare: Any, family: Family) -> Joins | None:
    """For byte-level BPE with all bytes, texts as they are or in NFC, and added words that swallow no blanks."""
    model, normal = plan["model"], plan["normalizer"]
    words = [token for token in plan["added_tokens"] if not token["special"]]
    if normal not in (None, {"type": "NFC"}) or not {chr(letter) for letter in _TO_BYTE} <= model["vocab"].keys():
        return None
    if model.get("byte_fallback") or any(
        token["lstrip"] or token["rstrip"] or token["single_word"] or (token["normalized"] and normal)
        for token in words
    ):
        return None
    merges = _merges(plan)
    pairs = {(left[-4:], right[:4]) for left, right in merges}
    tails = {left: _tail(_bytes(left)) for left in {left for left, _ in pairs}}
    heads = {right: _head(_bytes(right)) for right in {right for _, right in pairs}}
    junctions = {(tails[left], heads[right]) for left, right in pairs}
    if model.get("ignore_merges"):
        junctions |= _junctions_of_whole_words(model["vocab"], merges)
    class_of = _classes(family.classes)
    class_of[ord("'")] = -1
    if normal:
        class_of[_unsteady(bare.normalizer)] = -1
    joins = _joins(class_of, family.borders, junctions, WIDE)
    added = tuple(to_points(token["content"]) for token in words)
    spelling = np.array([ord(letter) for _, letter in sorted(byte_level_alphabet().items())])
    return joins and joins._replace(has_wide=True, added=added, spelling=spelling)


def _bytes(piece: str) -> bytes:
    return piece.translate(_TO_BYTE).encode("latin-1", "replace")


def _length(lead: int) -> int:
    """Bytes of the character that begins with this one; 0 where none does."""
    return 1 if lead < 0x80 else 0 if lead < 0xC2 else 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4 * (lead < 0xF5)


def _tail(piece: bytes) -> Side | None:
    """The last character of a piece, or all of it where it is less; None where it ends within a character."""
    for number, byte in enumerate(reversed(piece), 1):
        if not 0x80 <= byte < 0xC0:
            return _character(piece[-number:]) if _length(byte) == number else None
    return piece if len(piece) < 4 else None


def _head(piece: bytes) -> Side | None:
    """The first character of a piece, or all of it where it is less; None where it begins within a character."""
    size = _length(piece[0])
    if len(piece) >= size:
        return _character(piece[:size])
    return piece if all(0x80 <= byte < 0xC0 for byte in piece[1:]) else None


def _character(code: bytes) -> str | None:
    try:
        return code.decode() or None
    except UnicodeDecodeError:
        return None


def _junctions_of_whole_words(vocabulary: dict[str, int], merges: Sequence[Sequence[str]]) -> set[tuple[Side, Side]]:
    """What ``ignore_merges`` adds: a word that is one token when it stands alone, and that merges would not make.

    It may not be cut, nor cut out of a longer word.
    """
    from tokenizers.models import BPE

    merging = BPE(vocab=vocabulary, merges=[(left, right) for left, right in merges])
    junctions: set[tuple[Side, Side]] = set()
    for piece in vocabulary:
        if len(merging.tokenize(piece)) != 1:
            sides: list[Side] = [ANY, *_bytes(piece).decode("utf-8", "replace"), ANY]
            junctions |= set(zip(sides, sides[1:], strict=False))
    return junctions


def _classes(patterns: Sequence[str]) -> Array:
    """Point -> its class (int8) as the tokenizer's own engine sees it, -1 where it was not asked."""
    from tokenizers import Regex
    from tokenizers.pre_tokenizers import Split

    text = "".join(map(chr, KNOWN))
    known = np.array(KNOWN)
    class_of = np.full(BORDER, -1, np.int8)
    class_of[known] = len(patterns)
    for number in reversed(range(len(patterns))):
        matches = np.ones(len(known), bool)
        for _, (start, end) in Split(Regex(patterns[number] + "+"), "removed").pre_tokenize_str(text):
            matches[start:end] = False
        class_of[known[matches]] = number
    return class_of


def _unsteady(normalizer: Any) -> Array:
    """Points that the normalizer changes, or that may change with their neighbours: marks, and parts of Hangul."""
    letters = [chr(point) for point in KNOWN if point]
    after = normalizer.normalize_str("\0".join(letters)).split("\0")
    changed = [ord(letter) for letter, new in zip(letters, after, strict=True) if letter != new]
    return np.concatenate([np.flatnonzero(_classes((r"\p{M}",)) == 0), range(0x1100, 0x1200), changed]).astype(np.int64)


# ---- tables ---------------------------------------------------------------------------------------------------------


def _joins(
    class_of: Array, borders: Sequence[str], junctions: Iterable[tuple[Side | None, Side | None]], outside: int
) -> Joins | None:
    """The table for points with a class, by the family's ``borders``; the other points have the number ``outside``."""
    pairs = [(left, right) for left, right in junctions if left is not None and right is not None]
    lefts = {side: _ending_with(side) for side in {left for left, _ in pairs}}
    rights = {side: _beginning_with(side) for side in {right for _, right in pairs}}
    left, left_classes = _numbered(class_of, lefts, outside)
    right, right_classes = _numbered(class_of, rights, outside)
    if len(left_classes) * len(right_classes) > LARGEST or max(len(left_classes), len(right_classes)) >= 1 << 16:
        return None
    always: Array = np.array([[_ALWAYS[rule] for rule in row] for row in borders], np.uint8)
    merged: Array = np.array([[_MERGED[rule] for rule in row] for row in borders], np.uint8)
    table = np.full((len(left_classes), len(right_classes)), APART, np.uint8)
    table[WIDE, WIDE:] = table[WIDE:, WIDE] = SOMEHOW if outside == WIDE else APART
    table[2:, 2:] = always[left_classes[2:, None], right_classes[None, 2:]]
    points = [(ord(one), ord(other)) for one, other in pairs if isinstance(one, str) and isinstance(other, str)]
    pointed = np.array(points, np.int64).reshape(-1, 2)
    rows, columns = left[pointed[:, 0]], right[pointed[:, 1]]
    known = (rows > WIDE) & (columns > WIDE)
    rows, columns = rows[known], columns[known]
    table[rows, columns] = merged[left_classes[rows], right_classes[columns]]
    wider = [pair for pair in pairs if isinstance(pair[0], bytes) or isinstance(pair[1], bytes)]
    ones = {side: _numbers_in(left[lefts[side]]) for side in {one for one, _ in wider}}
    others = {side: _numbers_in(right[rights[side]]) for side in {other for _, other in wider}}
    for one, other in wider:
        rows, columns = ones[one][:, None], others[other]
        table[rows, columns] = merged[left_classes[rows], right_classes[columns]]
    for side, most in ((left, table.max(1)), (right, table.max(0))):
        side[most[side] == APART] = EDGE
    return Joins(left, right, table, np.arange(BORDER, dtype=np.uint32))


def _numbers_in(numbers: Array) -> Array:
    """Each number once, but for ``EDGE`` and ``WIDE``."""
    return np.unique(numbers[numbers > WIDE])


def _numbered(class_of: Array, sides: Mapping[Side, slice], outside: int) -> tuple[Array, Array]:
    """Point -> a number (uint16) that points share which have one class and the same sides; number -> its class."""
    known = np.flatnonzero(class_of >= 0)
    groups = class_of[known].astype(np.int64)
    for size in {_size(side) for side in sides}:
        feature = np.zeros(BORDER, np.int32)
        for number, (side, where) in enumerate(sides.items(), 1):
            if _size(side) == size:
                feature[where] = number
        groups = np.unique(groups * (len(sides) + 1) + feature[known], return_inverse=True)[1]
    kinds, firsts, groups = np.unique(groups, return_index=True, return_inverse=True)
    numbers = np.full(BORDER, outside, np.uint16)
    numbers[known] = groups + 2
    return numbers, np.concatenate([[0, 0], class_of[known][firsts]])


def _size(side: Side) -> int:
    """Sides of one size never hold one point twice."""
    return len(side) if isinstance(side, bytes) else -1


def _ending_with(side: Side) -> slice:
    """The points of the characters that end with ``side``."""
    if isinstance(side, str):
        return slice(ord(side), ord(side) + 1)
    step = 64 ** len(side)
    value = sum((byte & 0x3F) << 6 * place for place, byte in enumerate(reversed(side)))
    least = (0, 0x80, 0x800, 0x10000)[len(side)]
    return slice(value + -(-(least - value) // step) * step if value < least else value, BORDER, step)


def _beginning_with(side: Side) -> slice:
    """The points of the characters that begin with ``side``."""
    if isinstance(side, str):
        return slice(ord(side), ord(side) + 1)
    if not side:
        return slice(0, BORDER)
    missing = _length(side[0]) - len(side)
    value = side[0] & (0x3F >> _length(side[0]) - 1)
    for byte in side[1:]:
        value = value << 6 | byte & 0x3F
    return slice(value << 6 * missing, (value + 1) << 6 * missing)
