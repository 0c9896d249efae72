"""Similar conversations are found: checked against the exact share of equal n-grams; the overlap of two sets."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np

from hantune.data.dedup import (
    SIMILAR,
    Signatures,
    clusters,
    exact_duplicates,
    near_duplicates,
    overlap,
    shingles,
    signatures,
    similarity,
)  # fmt: skip
from hantune.data.types import Conversation, Message

WORDS = "今天天气不错我们一起去公园走走吧好的呀几点出发带上水果和书晚上再看电影怎么样可以听你的"


def talk(question: str, answer: str, source: str = "") -> Conversation:
    return Conversation(
        messages=(Message(role="user", text=question), Message(role="assistant", text=answer)), source=source
    )


def some_talk(rng: random.Random, size: int = 60) -> Conversation:
    return talk("".join(rng.choices(WORDS, k=size)), "".join(rng.choices(WORDS, k=size)))


def changed(rng: random.Random, one: Conversation, letters: int) -> Conversation:
    text = list(one.messages[1].text)
    for place in rng.sample(range(len(text)), letters):
        text[place] = "☆"
    return talk(one.messages[0].text, "".join(text))


def exact_share(one: Conversation, other: Conversation) -> float:
    left, right = set(shingles(one)), set(shingles(other))
    return len(left & right) / len(left | right)


def test_the_estimate_is_near_the_exact_share() -> None:
    rng = random.Random(0)
    firsts = [some_talk(rng) for _ in range(200)]
    seconds = [changed(rng, one, rng.randint(0, 20)) for one in firsts]
    matrix = signatures([shingles(each) for each in [*firsts, *seconds]])
    guesses = similarity(matrix, np.arange(200), np.arange(200, 400))
    truth = np.array([exact_share(one, other) for one, other in zip(firsts, seconds, strict=True)])
    assert abs(guesses - truth).mean() < 0.05


def test_clear_pairs_are_found_and_clear_strangers_are_not() -> None:
    rng = random.Random(1)
    firsts = [some_talk(rng) for _ in range(300)]
    close, far = [changed(rng, one, 1) for one in firsts], [changed(rng, one, 30) for one in firsts]
    matrix = signatures([shingles(each) for each in [*firsts, *close, *far]])
    labels = clusters(matrix, np.arange(900))
    assert (labels[300:600] == np.arange(300)).mean() > 0.98
    assert (labels[600:] == np.arange(600, 900)).mean() > 0.99
    pairs = near_duplicates(matrix, labels, np.arange(900))
    assert {pair.one for pair in pairs} >= {row for row in range(300, 600) if labels[row] == row - 300}
    assert all(pair.other < pair.one and pair.similarity >= SIMILAR for pair in pairs)


def test_a_chain_keeps_what_is_unlike_the_kept() -> None:
    base = "".join(random.Random(2).choices(WORDS, k=100))
    chain = [talk(base[: 50 + 6 * step], base[6 * step : 50 + 6 * step]) for step in range(8)]
    matrix = signatures([shingles(each) for each in chain])
    labels = clusters(matrix, np.arange(8))
    for pair in near_duplicates(matrix, labels, np.arange(8)):
        assert exact_share(chain[pair.one], chain[pair.other]) > SIMILAR - 0.15


def test_width_case_and_blanks_are_no_difference() -> None:
    assert shingles(talk("ABC 你好", "好")) == shingles(talk("ａｂｃ你 好", "好 "))
    assert shingles(talk("", "")) == ["\x01"]


def test_equal_ones() -> None:
    draws = np.array([5, 7, 5, 5, 7], np.uint64)
    assert [(p.one, p.other) for p in exact_duplicates(draws, np.arange(5))] == [(2, 0), (3, 0), (4, 1)]
    assert [(p.one, p.other) for p in exact_duplicates(draws, np.array([3, 0, 1]))] == [(0, 3)]


def test_signatures_on_disk_are_those_in_memory(tmp_path: Path) -> None:
    rng = random.Random(3)
    talks = [some_talk(rng, 5) for _ in range(5000)]
    store = Signatures(tmp_path / "s.bin")
    for each in talks:
        store.add(each)
    assert (store.matrix() == signatures([shingles(each) for each in talks])).all()
    store.close()
    assert not list(tmp_path.iterdir())
    assert Signatures(tmp_path / "e.bin").matrix().shape == (0, 64)
    assert not len(clusters(signatures([]), np.arange(0)))


def test_the_overlap_of_two_sets() -> None:
    rng = random.Random(4)
    held = [some_talk(rng) for _ in range(50)]
    ours = [some_talk(rng) for _ in range(50)] + [held[3], changed(rng, held[4], 1), changed(rng, held[5], 40)]
    found = overlap(ours, held)
    assert (found.compared, found.held_out, found.exact, found.near) == (53, 50, 1, 1)
    assert [pair["similarity"] for pair in found.pairs][0] == 1.0
    assert overlap([], held).pairs == overlap(held, []).pairs == []
