"""Laws of the stream: joined it is the whole text, no character is torn, and stop strings never show."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hantune.data.tokens import Encoder
from hantune.infer.stream import Pieces, TextStream, _overlap
from tests.laws import examples

TORN = "\N{REPLACEMENT CHARACTER}"
TEXTS = st.text(alphabet=st.sampled_from("你好龘靐😀é aZ\n\t，。▁Ġ<>x0"), max_size=24)


@pytest.fixture(scope="module", params=["sp", "byte", "llama2"])
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(
        {"sp": "sp_tokenizer", "byte": "byte_tokenizer"}.get(request.param, "llama2_tokenizer")
    )


@pytest.fixture(scope="module")
def pieces(tokenizer: Any) -> Pieces:
    return Pieces(Encoder(tokenizer))


def encode(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False))


def own_text(tokenizer: Any, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=True))


@examples(20, 60)
@given(data=st.data())
def test_the_joined_stream_is_the_tokenizers_own_text(tokenizer: Any, pieces: Pieces, data: st.DataObject) -> None:
    """Random ids too: real texts, torn characters, special tokens in between."""
    ids = data.draw(
        st.one_of(
            TEXTS.map(lambda text: encode(tokenizer, text)), st.lists(st.integers(0, len(tokenizer) - 1), max_size=24)
        )
    )
    stream = TextStream(pieces)
    parts = [stream.feed(token) for token in ids]
    text = "".join(parts) + stream.finish(keep_torn=True)
    whole = own_text(tokenizer, ids)
    assert text == pieces.text(ids)
    if TORN in whole:
        assert text.count(TORN) <= whole.count(TORN)
    else:
        assert text == whole
        assert not any(TORN in part for part in parts)


@given(ids=st.lists(st.integers(0, 250), max_size=30))
def test_byte_level_text_is_the_tokenizers_own_even_where_it_is_torn(byte_tokenizer: Any, ids: list[int]) -> None:
    assert Pieces(Encoder(byte_tokenizer)).text(ids) == own_text(byte_tokenizer, ids)


@given(text=TEXTS)
@example(text="习近平龘靐齉😀")
def test_each_character_comes_with_its_last_byte(tokenizer: Any, pieces: Pieces, text: str) -> None:
    """Nothing but an unfinished character is held back when there are no stop strings."""
    stream, spoken, data = TextStream(pieces), "", b""
    for token in encode(tokenizer, text):
        data += pieces[token]
        spoken += stream.feed(token)
        certain = data.decode("utf-8", "ignore")
        assert spoken == (certain.removeprefix(" ") if pieces.drops_first_blank else certain)


def test_an_unfinished_character_at_the_end_is_dropped_or_shown_torn(sp_tokenizer: Any) -> None:
    pieces = Pieces(Encoder(sp_tokenizer))
    ids = encode(sp_tokenizer, "好龘")[:-1]
    stream = TextStream(pieces)
    assert stream.feed_all(ids) == "好"
    assert stream.finish() == ""
    assert pieces.text(ids) == "好" + TORN


def test_a_torn_byte_does_not_blank_its_neighbours(sp_tokenizer: Any) -> None:
    """The Rust decoder gives four U+FFFD here, so the character that was already shown would be taken back."""
    ids = [byte + 3 for byte in "龘".encode() + b"\xff"]
    assert own_text(sp_tokenizer, ids) == TORN * 4
    assert Pieces(Encoder(sp_tokenizer)).text(ids) == "龘" + TORN


@given(text=TEXTS, stops=st.lists(st.text(alphabet="你好aZ\n", min_size=1, max_size=4), max_size=3))
def test_the_text_ends_before_the_first_complete_stop(
    tokenizer: Any, pieces: Pieces, text: str, stops: list[str]
) -> None:
    ids = encode(tokenizer, text)
    stream = TextStream(pieces, stops)
    spoken = stream.feed_all(ids) + stream.finish(keep_torn=True)
    whole = pieces.text(ids)
    ends = [(whole.find(stop) + len(stop), whole.find(stop)) for stop in stops if stop in whole]
    assert spoken == (whole[: min(ends)[1]] if ends else whole)
    assert stream.stopped == bool(ends)


@given(text=TEXTS, stop=st.text(alphabet="你好\n ", min_size=1, max_size=3))
def test_strip_is_the_strip_of_the_whole(tokenizer: Any, pieces: Pieces, text: str, stop: str) -> None:
    ids = encode(tokenizer, text)
    stream = TextStream(pieces, [stop], strip=True)
    plain = TextStream(pieces, [stop])
    assert stream.feed_all(ids) + stream.finish() == (plain.feed_all(ids) + plain.finish()).strip()


def test_only_what_may_begin_a_stop_is_held_back(byte_tokenizer: Any) -> None:
    stream = TextStream(Pieces(Encoder(byte_tokenizer)), ["Human:"])
    letters = {character: byte_tokenizer.convert_tokens_to_ids(character) for character in "xHumanity"}
    assert [stream.feed(letters[c]) for c in "xHumanity"] == ["x", "", "", "", "", "", "Humani", "t", "y"]
    assert not stream.stopped


def test_after_a_stop_nothing_comes(byte_tokenizer: Any) -> None:
    stream = TextStream(Pieces(Encoder(byte_tokenizer)), ["b"])
    a, b = (byte_tokenizer.convert_tokens_to_ids(character) for character in "ab")
    assert [stream.feed(token) for token in (a, b, a)] == ["a", "", ""]
    assert stream.finish() == ""


def test_a_token_costs_the_same_in_a_long_answer(sp_tokenizer: Any) -> None:
    """6 microseconds or so; decoding everything anew costs hundreds after a few hundred tokens (trap B8)."""
    ids = encode(sp_tokenizer, "今天天气很好，我们去龘靐公园散步吧。" * 500)
    pieces = Pieces(Encoder(sp_tokenizer))
    seconds = []
    for part in (ids[:1000], ids):
        stream = TextStream(pieces, ["结束了"])
        begin = time.process_time()
        stream.feed_all(part)
        seconds.append((time.process_time() - begin) / len(part))
    assert seconds[1] < 8 * seconds[0] + 1e-5
    assert seconds[1] < 1e-4


def test_rows_without_a_piece_are_silent(sp_tokenizer: Any) -> None:
    pieces = Pieces(Encoder(sp_tokenizer))
    assert pieces.end == len(sp_tokenizer)
    assert pieces.text([pieces.end + 5]) == ""


@given(text=st.text(alphabet="ab", max_size=6), stop=st.text(alphabet="ab", min_size=1, max_size=5))
def test_overlap_is_the_longest_end_that_begins_the_stop(text: str, stop: str) -> None:
    lengths = [n for n in range(len(stop)) if text.endswith(stop[:n])]
    assert _overlap(text, stop) == max(lengths)


def test_a_text_that_goes_on_keeps_its_first_blank(sp_tokenizer: Any) -> None:
    pieces = Pieces(Encoder(sp_tokenizer))
    ids = encode(sp_tokenizer, "hello")
    assert pieces[ids[0]].startswith(b" ")
    assert TextStream(pieces).feed_all(ids) == "hello"
    assert TextStream(pieces, goes_on=True).feed_all(ids) == " hello"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama2", "chinese-llama-2", "byte"])
def test_ten_thousand_random_token_sequences(name: str, shared_data: Any, request: pytest.FixtureRequest) -> None:
    """Broken UTF-8, control tokens, rare Han: chunks are whole characters, and joined they are the whole decode."""
    from hantune.models.load import load_tokenizer

    own = request.getfixturevalue("byte_tokenizer") if name == "byte" else None
    encoder = Encoder(own or load_tokenizer(shared_data / "tokenizers" / name))
    pieces, chance = Pieces(encoder), random.Random(0)
    low = min(256, encoder.vocab_size)
    for _ in range(10_000):
        sizes = [encoder.vocab_size if chance.random() < 0.5 else low for _ in range(chance.randrange(1, 40))]
        ids = [chance.randrange(size) for size in sizes]
        stream = TextStream(pieces)
        parts = [*(stream.feed(token) for token in ids), stream.finish(keep_torn=True)]
        text, whole = "".join(parts), encoder.decode(ids)
        assert text == pieces.text(ids)
        assert TORN in whole or (text == whole and TORN not in text)
        assert all(part.encode().decode() == part for part in parts)
