"""Blocks are what ``fit_many`` says, for every template, tokenizer and conversation."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hantune.data.bulk import Block, Bulk
from hantune.data.fit import fit_many
from hantune.data.prepared import Columns
from hantune.data.templates import TEMPLATES, JinjaTemplate, get_template
from hantune.data.tokens import Encoder
from hantune.data.types import Conversation, Message
from hantune.errors import DataError
from tests.data import chat_templates as shapes
from tests.data.dialogues import changed, clean_texts, conversation, conversations, encoder_of, stripped_texts
from tests.laws import examples

ALL = TEMPLATES | {
    "system": get_template("llama2", system="你是助手。"),
    "jinja": JinjaTemplate(name="model", source=shapes.LLAMA2),
}
MIXED = conversations(stripped_texts, learn=True) | conversations(clean_texts, learn=True)


@pytest.fixture(scope="session", params=["llama2_tokenizer", "sp_tokenizer", "byte_tokenizer", "unproved"])
def encoder(request: pytest.FixtureRequest) -> Encoder:
    if request.param == "unproved":
        encoder = Encoder(changed(request.getfixturevalue("byte_tokenizer"), _split_otherwise))
    else:
        encoder = encoder_of(request.getfixturevalue(request.param))
    assert encoder.borders is not None  # made now, so that every batch goes through them
    return encoder


def _split_otherwise(plan: dict[str, Any]) -> None:
    """A pre-tokenizer that is in no family."""
    other = {"type": "Split", "pattern": {"Regex": "[a-z]+|[^a-z]+"}, "behavior": "Isolated", "invert": False}
    plan["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [other, plan["pre_tokenizer"] | {"use_regex": False}]}


def block_of(talks: Sequence[Conversation], bulk: Bulk) -> Block:
    columns = Columns()
    for number, talk in enumerate(talks):
        columns.add(talk, str(number))
    return bulk.encode(columns.take())


def assert_same(talks: Sequence[Conversation], bulk: Bulk) -> None:
    """The block of some conversations is what ``fit_many`` says."""
    fitted = fit_many(talks, bulk.template, bulk.encoder, max_tokens=bulk.max_tokens, max_turns=bulk.max_turns)
    kept = [(each, each.example) for each in fitted if each.example]
    block = block_of(talks, bulk)
    assert block.ids.tolist() == [token for _, example in kept for token in example.ids]
    assert block.mask.tolist() == [learn for _, example in kept for learn in example.mask]
    assert block.lengths.tolist() == [len(example.ids) for _, example in kept]
    assert block.cut.tolist() == [example.is_cut for _, example in kept]
    assert block.characters.tolist() == [each.characters for each, _ in kept]
    assert block.sources.decode() == "".join(example.source for _, example in kept)
    assert block.source_lengths.tolist() == [len(example.source.encode()) for _, example in kept]
    assert block.dropped == len(talks) - len(kept)


@pytest.mark.parametrize("name", ALL)
@given(
    given=st.lists(MIXED, min_size=1, max_size=6),
    max_tokens=st.sampled_from([24, 80, 2048]),
    max_turns=st.sampled_from([None, 1, 2]),
)
@examples(4, 12)
def test_blocks_are_what_fit_many_says(
    name: str, given: list[list[Message]], max_tokens: int, max_turns: int | None, encoder: Encoder
) -> None:
    talks = [Conversation(messages=tuple(each), source=f"数据.json:{n}") for n, each in enumerate(given)]
    assert_same(talks, Bulk(ALL[name], encoder, max_tokens, max_turns))


def test_words_that_a_template_turns_on(encoder: Encoder) -> None:
    talks = [conversation("做事\n\n### Input:\n材料", "好", "再来", "好"), conversation("做事", "好")]
    for name in ("alpaca", "belle"):
        assert_same(talks, Bulk(TEMPLATES[name], encoder, 2048))


def test_part_of_a_batch(encoder: Encoder) -> None:
    talks = [conversation(f"问{n}" * (n + 1), "答 ok", source=f"a:{n}") for n in range(8)]
    columns = Columns()
    for talk in talks:
        columns.add(talk, "x")
    bulk = Bulk(TEMPLATES["llama2"], encoder, 999)
    part, whole = bulk.encode(columns.take().slice(3, 4)), block_of(talks[3:7], bulk)
    assert part.ids.tolist() == whole.ids.tolist()
    assert part.sources == whole.sources


def test_nothing(encoder: Encoder) -> None:
    assert_same([], Bulk(TEMPLATES["llama2"], encoder, 999))
    assert_same([conversation("问", "答", learn=[False])], Bulk(TEMPLATES["llama2"], encoder, 999))


def test_order_that_a_template_cannot_show_names_its_place(sp_tokenizer: Any) -> None:
    messages = (Message(role="user", text="问"), Message(role="user", text="问"), Message(role="assistant", text="答"))
    bulk = Bulk(TEMPLATES["llama2"], encoder_of(sp_tokenizer), 99)
    with pytest.raises(DataError) as caught:
        block_of([Conversation(messages=messages, source="a:7")], bulk)
    assert (caught.value.code, caught.value.place) == ("template.roles", "a:7")


def test_travels_to_another_process(encoder: Encoder) -> None:
    talks = [conversation("你好 hello", "世界 " * n + "</s>龘", source=f"a:{n}") for n in range(40)]
    bulk = Bulk(TEMPLATES["llama2"], encoder, 100)
    before = block_of(talks, bulk)
    after = block_of(talks, pickle.loads(pickle.dumps(bulk)))
    assert before.ids.tolist() == after.ids.tolist()
    assert_same(talks, pickle.loads(pickle.dumps(Bulk(TEMPLATES["belle"], encoder, 30))))
