"""The mask as people see it: whole characters, honest colours."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hantune.data.show import Piece, coloured, mask_view
from hantune.data.templates import TEMPLATES
from hantune.data.tokens import Encoder, cut
from hantune.data.types import Example
from tests.data.dialogues import encoder_of, talk
from tests.laws import examples

RARE = "龘靐齉😀👨‍👩‍👧é习"


@pytest.fixture(scope="session", params=["llama2_tokenizer", "sp_tokenizer", "byte_tokenizer"])
def encoder(request: pytest.FixtureRequest) -> Encoder:
    return encoder_of(request.getfixturevalue(request.param))


@pytest.mark.parametrize("name", TEMPLATES)
def test_characters_of_three_tokens_are_one_piece(name: str, encoder: Encoder) -> None:
    example = encoder.encode(TEMPLATES[name].render(talk(RARE, RARE), encoder.marks))
    pieces = mask_view(example, encoder)
    text = "".join(piece.text for piece in pieces)
    assert "\ufffd" not in text
    assert "\\x" not in text
    assert text.count(RARE) == 2
    assert [token for piece in pieces for token in piece.ids] == list(example.ids)


def test_han_character_of_llama_2_is_one_piece_with_its_bytes(llama2_tokenizer: Any) -> None:
    encoder = encoder_of(llama2_tokenizer)
    pieces = mask_view(encoder.encode(TEMPLATES["belle"].render(talk("问", "习"), encoder.marks)), encoder)
    assert pieces[-2:] == [Piece("习", True, (231, 188, 163)), Piece("</s>", True, (2,))]


@given(ids=st.lists(st.integers(3, 757), max_size=12), flips=st.lists(st.booleans(), min_size=12, max_size=12))
@examples(20, 60)
def test_any_ids_can_be_shown(ids: list[int], flips: list[bool], sp_tokenizer: Any) -> None:
    encoder = encoder_of(sp_tokenizer)
    example = Example(ids=tuple(ids), mask=tuple(int(flip) for flip in flips[: len(ids)]))
    pieces = mask_view(example, encoder)
    assert [token for piece in pieces for token in piece.ids] == ids
    assert [int(piece.learn) for piece in pieces for _ in piece.ids] == list(example.mask)


def test_answer_cut_inside_a_character_shows_its_bytes(llama2_tokenizer: Any) -> None:
    encoder = encoder_of(llama2_tokenizer)
    example = encoder.encode(TEMPLATES["belle"].render(talk("问", "习"), encoder.marks))
    pieces = mask_view(cut(example, len(example.ids) - 2), encoder)
    assert pieces[-1].text == "\\xe4\\xb9"


def test_colours_and_brackets() -> None:
    pieces = [Piece("问", False, (1,)), Piece("答", True, (2, 3)), Piece("</s>", True, (4,))]
    assert coloured(pieces, colour=True) == "\x1b[90m问\x1b[0m\x1b[32m答</s>\x1b[0m"
    assert coloured(pieces, colour=False) == "问【答</s>】"
    assert coloured(pieces, colour=False, with_ids=True) == "问[1]【答[2 3]</s>[4]】"


def test_text_cannot_steer_the_terminal() -> None:
    assert coloured([Piece("a\x1b[2J\x9bb\n", False, (1,))], colour=False) == "a\\x1b[2J\\x9bb\n"
