"""The tables say what the tokenizer says, for every text; where they could not, there are none."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hantune.data.borders import BORDER, Borders, to_points, whole_texts
from hantune.data.junctions import find_borders
from hantune.data.tokens import WITH_PREFIX, WITHOUT_PREFIX, Encoder
from tests.conftest import SHARED_DATA
from tests.data.dialogues import FRAGMENTS, encoder_of
from tests.laws import examples

HAN = st.characters(min_codepoint=0x4E00, max_codepoint=0x9FFF)
ASCII = st.characters(max_codepoint=0x7F, exclude_characters="\0")
EMOJI = st.characters(min_codepoint=0x1F300, max_codepoint=0x1FAFF)
ANY = st.characters(exclude_categories=["Cs"])
pieces = st.text(HAN, max_size=6) | st.text(ASCII, max_size=8) | st.text(EMOJI, max_size=3) | st.text(ANY, max_size=3)
texts = st.lists(pieces | st.sampled_from(FRAGMENTS), max_size=8).map("".join)
EMBEDDED = Path(__file__).parents[2] / "hantune" / "assets" / "tokenizer"
TOKENIZERS = ["llama2", "chinese-llama-2", "embedded", "sp_tokenizer", "byte_tokenizer"]


@pytest.fixture(scope="session", params=TOKENIZERS)
def encoder(request: pytest.FixtureRequest) -> Encoder:
    """An encoder over each tokenizer, three of them real."""
    if request.param.endswith("tokenizer"):
        return encoder_of(request.getfixturevalue(request.param))
    from hantune.models.load import load_tokenizer

    folder = EMBEDDED if request.param == "embedded" else SHARED_DATA / "tokenizers" / request.param
    if not folder.is_dir():
        pytest.skip("needs the real files of ../shared/data")
    return Encoder(load_tokenizer(folder))


def slow(encoder: Encoder, which: int, each: list[str]) -> list[list[int]]:
    return [list(encoding.ids) for encoding in encoder._pair[which].encode_batch(each, add_special_tokens=False)]


@given(given=st.lists(texts, min_size=1, max_size=5), which=st.sampled_from([WITH_PREFIX, WITHOUT_PREFIX]))
@examples(40, 150)
def test_tables_say_what_the_tokenizer_says(given: list[str], which: int, encoder: Encoder) -> None:
    assert encoder.borders is not None
    filler = "好" * 300  # enough for the tables to be used
    texts = [*filter(None, given), filler]
    assert encoder._encode_texts(which, texts) == slow(encoder, which, texts)


def test_every_one_of_them_has_tables(encoder: Encoder) -> None:
    plan = json.loads(encoder._pair[0].to_str())
    assert find_borders(plan, encoder._pair[1], []) is not None


def test_tables_are_made_when_they_are_worth_it(sp_tokenizer: Any) -> None:
    encoder = Encoder(sp_tokenizer)
    encoder._encode_texts(WITH_PREFIX, ["好" * 300])
    assert "borders" not in vars(encoder)
    assert encoder.borders_for(300) is None
    assert encoder.borders_for(10**6) is encoder.borders_for(300) is not None


def test_no_merge_touches_a_han_character_in_llama_2(llama2_tokenizer: Any) -> None:
    borders = encoder_of(llama2_tokenizer).borders
    assert borders is not None
    assert not borders._left[0x4E00:0xA000].any()
    assert not borders._right[0x4E00:0xA000].any()


def plan_of(tokenizer: Any) -> dict[str, Any]:
    return dict(json.loads(tokenizer.backend_tokenizer.to_str()))


def _change_normalizer(plan: dict[str, Any]) -> None:
    plan["normalizer"] = {"type": "NFKC"}


def _change_splitter(plan: dict[str, Any]) -> None:
    plan["pre_tokenizer"] = {"type": "Whitespace"}


def _take_a_byte(plan: dict[str, Any]) -> None:
    del plan["model"]["vocab"]["<0x41>"]


def _merge_a_byte(plan: dict[str, Any]) -> None:
    plan["model"]["merges"].append(["<0xE4>", "<0xBD>"])


def _add_a_word(plan: dict[str, Any]) -> None:
    word = {"id": 9999, "content": "你好", "special": False, "normalized": False}
    plan["added_tokens"].append(word | {"single_word": False, "lstrip": False, "rstrip": False})


def _whole_words(plan: dict[str, Any]) -> None:
    plan["model"]["ignore_merges"] = True


@pytest.mark.parametrize(
    "change", [_change_normalizer, _change_splitter, _take_a_byte, _merge_a_byte, _add_a_word, _whole_words]
)
def test_tokenizers_that_break_a_condition_have_none(change: Any, sp_tokenizer: Any) -> None:
    plan = plan_of(sp_tokenizer)
    for token in plan["added_tokens"]:
        token["special"] = True
    assert find_borders(plan, None, []) is not None
    broken = copy.deepcopy(plan)
    change(broken)
    assert find_borders(broken, None, []) is None


def test_words_are_forgotten_before_they_fill_the_memory(sp_tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = Encoder(sp_tokenizer)
    assert encoder.borders is not None
    monkeypatch.setattr("hantune.data.words.MOST_WORDS", 2)
    folded = encoder.borders.fold(to_points("hello good world"))
    before = encoder.borders.encode(folded)[0].tolist()
    for round in range(3):
        given = [f"hello {round} world {word} " * 40 for word in ("good", "bad", "things")]
        assert encoder._encode_texts(WITHOUT_PREFIX, given) == slow(encoder, WITHOUT_PREFIX, given)
    assert encoder.borders.encode(folded)[0].tolist() == before


@given(given=st.lists(texts, min_size=3, max_size=3))
@examples(30, 100)
def test_folding_changes_no_ids(given: list[str], encoder: Encoder) -> None:
    before, middle, after = map(to_points, given)
    borders = encoder.borders
    assert borders is not None
    wanted, found = (borders.encode(np.concatenate([before, each, after])) for each in (middle, borders.fold(middle)))
    assert found[0].tolist() == wanted[0].tolist()
    edged = np.concatenate([[BORDER], middle, [BORDER + 1]]).astype(np.uint32)
    assert borders.encode(borders.fold(edged))[0].tolist() == borders.encode(edged)[0].tolist()
    assert len(borders.fold(edged)) <= 3 or not len(middle)


def test_whole_texts_are_words_where_nothing_is_proved(byte_tokenizer: Any) -> None:
    encoder = encoder_of(byte_tokenizer)
    plain = Borders(whole_texts(), encoder._pair[1], [])
    given = ["don't 你好，世界\n", "don't 你好", "x" * 99]
    points = np.concatenate([[BORDER], *([*to_points(text), BORDER] for text in given)]).astype(np.uint32)
    ids, _ = plain.encode(points)
    assert ids.tolist() == [token for each in slow(encoder, WITHOUT_PREFIX, given) for token in each]


def test_border_has_no_ids_and_controls_have_theirs(sp_tokenizer: Any) -> None:
    borders = encoder_of(sp_tokenizer).borders
    assert isinstance(borders, Borders)
    controls = list(encoder_of(sp_tokenizer).control_points.items())
    points = np.concatenate([[BORDER, controls[0][1]], to_points("好"), [controls[1][1], BORDER]]).astype(np.uint32)
    ids, counts = borders.encode(points)
    assert (ids[0], ids[-1]) == (controls[0][0], controls[1][0])
    assert counts.tolist()[:2] == [0, 1]
    assert counts.tolist()[-2:] == [1, 0]
    assert borders.encode(np.zeros(0, np.uint32))[0].tolist() == []
