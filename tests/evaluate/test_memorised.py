"""Planted rows are found with their source, and nothing else is."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hantune.data.store import TokenStore
from hantune.data.tokens import Encoder
from hantune.evaluate import memorised
from hantune.evaluate.memorised import LearnedText
from tests.laws import examples

Row = tuple[Sequence[int], Sequence[int]]
POEM = "床前明月光疑是地上霜举头望明月低头思故乡春眠不觉晓处处闻啼鸟夜来风雨声花落知多少"


def store_of(rows: Sequence[Row], used: Sequence[int] | None = None) -> TokenStore:
    """A store of (ids, mask) rows whose sources are ``f:0``, ``f:1`` ..."""
    names = [f"f:{number}".encode() for number in range(len(rows))]
    arrays = {
        "ids": np.array([token for ids, _ in rows for token in ids], dtype=np.uint16),
        "mask": np.array([learn for _, mask in rows for learn in mask], dtype=np.uint8),
        "offsets": np.cumsum([0, *(len(ids) for ids, _ in rows)]),
        "sources": np.frombuffer(b"".join(names), dtype=np.uint8),
        "source_offsets": np.cumsum([0, *map(len, names)]),
        "cut": np.zeros(len(rows), dtype=np.uint8),
        "characters": np.zeros(len(rows), dtype=np.int32),
    }
    return TokenStore(arrays, {}, np.array(range(len(rows)) if used is None else used))


@pytest.fixture(scope="module")
def encoder(sp_tokenizer: Any) -> Encoder:
    return Encoder(sp_tokenizer)


@pytest.fixture(scope="module")
def rows(encoder: Encoder) -> list[Row]:
    """200 rows: a question that is not learned, a random answer that is, the end."""
    draw = random.Random(1)
    found = []
    for _ in range(200):
        question, answer = (ids_of(encoder, "".join(draw.choices(POEM, k=30))) for _ in range(2))
        found.append(([1, *question, *answer, 2], [0] * (1 + len(question)) + [1] * (len(answer) + 1)))
    return found


def ids_of(encoder: Encoder, text: str) -> list[int]:
    return list(encoder.tokenizer(text, add_special_tokens=False).input_ids)


def answer_of(row: Row) -> list[int]:
    """The learned part without its end."""
    return [token for token, learn in zip(*row, strict=True) if learn][:-1]


def test_a_row_that_is_repeated_is_found_with_its_source(encoder: Encoder, rows: list[Row]) -> None:
    whole, inside = answer_of(rows[7]), answer_of(rows[150])
    draw = random.Random(2)
    noise = ids_of(encoder, "".join(draw.choices(POEM, k=30)))
    found = LearnedText(store_of(rows), encoder).repeated([whole, [*noise[:9], *inside[2:]], noise, []])
    assert [each and each.source for each in found] == ["f:7", "f:150", None, None]
    assert found[0] is not None
    assert found[0].text == encoder.decode(whole)


def test_random_answers_repeat_nothing(encoder: Encoder, rows: list[Row]) -> None:
    draw = random.Random(3)
    answers = [ids_of(encoder, "".join(draw.choices(POEM, k=40))) for _ in range(50)]
    assert LearnedText(store_of(rows), encoder).repeated(answers) == [None] * 50


def test_questions_and_rows_that_are_not_trained_do_not_count(encoder: Encoder, rows: list[Row]) -> None:
    question = [token for token, learn in zip(*rows[4], strict=True) if not learn][1:]
    learned = answer_of(rows[4])
    assert LearnedText(store_of(rows), encoder).repeated([question]) == [None]
    assert LearnedText(store_of(rows, used=[3, 5]), encoder).repeated([learned]) == [None]
    (found,) = LearnedText(store_of(rows, used=[3, 4]), encoder).repeated([learned])
    assert found is not None
    assert found.source == "f:4"


def test_short_replies_are_everybodys(encoder: Encoder) -> None:
    short, eight = (ids_of(encoder, text) for text in ("好的好的", "我今天去公园散步"))
    store = store_of([([1, *ids, 2], [0, *[1] * len(ids), 1]) for ids in (short, eight)])
    assert [found is not None for found in LearnedText(store, encoder).repeated([short, eight])] == [False, True]
    assert LearnedText(store, encoder).repeated([eight[:-1]]) == [None], "a part of a short reply is not the reply"


TOKENS = st.sampled_from([100, 101, 102, 2])  # three bytes of text, and the end mark
SAMPLE = st.lists(st.tuples(TOKENS, st.sampled_from([0, 1, 1, 1])), min_size=1, max_size=12)


@examples(60, 200)
@given(
    samples=st.lists(SAMPLE, min_size=1, max_size=6),
    answer=st.lists(st.sampled_from([100, 101, 102]), max_size=8),
    size=st.integers(1, 30),
)
def test_it_finds_what_a_search_of_every_stretch_finds(
    encoder: Encoder, samples: list[list[tuple[int, int]]], answer: list[int], size: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memorised, "LONG_BYTES", 4)
        patch.setattr(memorised, "WHOLE_BYTES", 2)
        store = store_of([([t for t, _ in sample], [m for _, m in sample]) for sample in samples])
        patch.setattr(store, "blocks", lambda: TokenStore.blocks(store, size))
        (found,) = LearnedText(store, encoder).repeated([answer])
        assert (found and found.source) == by_search(samples, answer)


def by_search(samples: list[list[tuple[int, int]]], answer: list[int]) -> str | None:
    text = "".join(map(chr, answer))
    for number, sample in enumerate(samples):
        marked = "".join(chr(token) if learn and token != 2 else " " for token, learn in sample)
        for run in marked.split():
            is_part = any(run[i : i + 4] in text for i in range(len(run) - 3))
            if len(answer) > 1 and (is_part or (run == text and len(run) >= 2)):
                return f"f:{number}"
    return None
