from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from hantune.models.vocab.pieces import RUN, Word, choose, overlaps_itself, runs_of, ways, with_ways


class Letters:
    """A vocabulary of single characters; those in ``unknown`` cost three tokens."""

    def __init__(self, known: str, unknown: str = "", merged: tuple[str, ...] = ()) -> None:
        self.pieces = {piece: number for number, piece in enumerate([*known, *merged])}
        self.unknown = unknown

    def spell(self, text: str) -> str:
        return text

    def symbols(self, word: str) -> tuple[str, ...]:
        return tuple(word)

    def cost(self, symbol: str) -> int:
        return 3 if symbol in self.unknown else 1

    def is_allowed(self, piece: str) -> bool:
        return not overlaps_itself(piece)


def words(*texts: str) -> list[Word]:
    return [Word(tuple(text), times) for text, times in Counter(texts).items()]


def cut(text: str, pieces: list[str], known: str) -> int:
    """How many tokens the greedy merges make of a text, straight from the definition of BPE."""
    symbols = list(text)
    rank = {piece: number for number, piece in enumerate(pieces)}
    while True:
        pairs = [
            (rank[a + b], place)
            for place, (a, b) in enumerate(zip(symbols, symbols[1:], strict=False))
            if a + b in rank
        ]
        if not pairs:
            return sum(1 if symbol in known or symbol in rank else 3 for symbol in symbols)
        _, place = min(pairs)
        symbols[place : place + 2] = ["".join(symbols[place : place + 2])]


def test_the_first_piece_is_the_one_that_saves_most() -> None:
    found = choose(words("甲乙丙", "甲乙", "乙丁", "乙丁", "乙丁"), 1, old=Letters("甲乙丙丁"))
    assert [(piece.text, piece.saved) for piece in found] == [("乙丁", 3)]


def test_a_character_without_a_piece_saves_two_tokens_each_time() -> None:
    found = choose(words("甲乙", "甲乙", "丙丁", "丙丁", "丙丁"), 2, old=Letters("甲丙丁", "乙"))
    assert [(piece.text, piece.saved) for piece in found] == [("乙", 4), ("丙丁", 3)]


@given(st.lists(st.text(alphabet="甲乙丁", min_size=1, max_size=40), min_size=1, max_size=12))
def test_savings_never_grow_and_each_piece_joins_two_that_stand_before_it(texts: list[str]) -> None:
    old = Letters("甲乙", "丁")
    found = choose(words(*texts), 40, old=old)
    assert [piece.saved for piece in found] == sorted((piece.saved for piece in found), reverse=True)
    have = set(old.pieces)
    for piece in found:
        assert piece.text not in have
        assert len(piece.text) == 1 or ways(piece.text, have)
        have.add(piece.text)


@given(st.lists(st.text(alphabet="甲乙丙丁", min_size=1, max_size=7), min_size=1, max_size=10))
def test_what_a_piece_is_said_to_save_it_saves(texts: list[str]) -> None:
    old = Letters("甲乙", "丙丁")
    found = choose(words(*texts), 3, old=old)
    before = sum(cut(text, [], "甲乙") for text in texts)
    after = sum(cut(text, [piece.text for piece in found], "甲乙") for text in texts)
    # Merges in order of worth may take another way than the step that chose them; never is a piece lost on the first.
    assert after <= before
    if len(found) == 1:
        assert before - after == found[0].saved


def test_words_are_never_joined_across_their_border() -> None:
    assert choose(words("甲", "乙", "甲", "乙"), 5, old=Letters("甲乙")) == []


def test_runs_hold_no_letter_digit_or_blank_and_keep_signs_apart() -> None:
    runs = runs_of(["你好, world 123你好，「很好」！ＡＢ　カタカナ한국어……“引”"])
    assert set(runs) == {"你好", "，「", "很好", "」！", "カタカナ", "한국어", "引"}
    assert runs["你好"] == 2


@given(st.text(alphabet="哈呵嘿", min_size=1, max_size=6))
def test_overlaps_itself_is_what_it_says(text: str) -> None:
    """Two copies may overlap by k characters exactly when the end of k equals the beginning of k; half is harmless."""
    overlaps = {k for k in range(1, len(text)) if text[-k:] == text[:k]}
    assert overlaps_itself(text) == bool(overlaps - {len(text) / 2})


def test_pieces_of_a_list_come_with_what_reaches_them() -> None:
    old = Letters("甲乙丙", "丁", ("甲乙",))
    chosen, left_out = with_ways(["甲乙丙", "乙丙丁", "甲乙", "abc", "甲 乙", "丁丁丁"], old, None)
    assert chosen == ["甲乙丙", "丁", "乙丙", "乙丙丁"]
    assert sum(left_out.values()) == 4
    have = set(old.pieces)
    for piece in chosen:
        assert len(piece) == 1 or ways(piece, have)
        have.add(piece)


def test_a_list_is_cut_at_the_number_asked_for() -> None:
    chosen, left_out = with_ways(["甲乙", "乙甲"], Letters("甲乙"), 1)
    assert chosen == ["甲乙"]
    assert left_out == {"超过 --num-pieces": 1}


def test_the_pattern_has_no_letters_of_the_west() -> None:
    west = "".join(
        map(chr, [*range(0x20, 0x2E80), *range(0xFF10, 0xFF1A), *range(0xFF21, 0xFF3B), *range(0xFF41, 0xFF5B)])
    )
    hangul_jamo = range(0x1100, 0x1200)
    assert all(ord(character) in hangul_jamo for character in "".join(RUN.findall(west)))
