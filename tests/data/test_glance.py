"""A glance says what the check of every single sample says, of good data and of bad."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hantune.data import glance as module
from hantune.data.check import Checking, check_data
from hantune.data.glance import Glance, check_prepared
from hantune.data.prepare import prepare
from hantune.data.prepared import Columns, open_prepared
from hantune.data.templates import TEMPLATES, Template
from hantune.data.tokens import Encoder
from hantune.data.types import Conversation
from hantune.errors import RefusedError
from tests.data import chat_templates as shapes
from tests.data.dialogues import clean_texts, conversation, conversations, encoder_of, stripped_texts
from tests.data.mutants import AddsNewline, EndsWithWords, ForgetsTerminator, LearnsNothing
from tests.laws import examples

LLAMA2 = TEMPLATES["llama2"]
MUTANTS = [mutant(name="llama2") for mutant in (AddsNewline, EndsWithWords, ForgetsTerminator, LearnsNothing)]
TALKS = st.lists(conversations(stripped_texts, learn=True) | conversations(clean_texts, learn=True), max_size=12)


@pytest.fixture(scope="module", params=["sp_tokenizer", "byte_tokenizer"])
def encoder(request: pytest.FixtureRequest) -> Encoder:
    return encoder_of(request.getfixturevalue(request.param))


def outcome(work: Any) -> Any:
    """The report, or the refusal, as plain values."""
    try:
        return work().as_dict()
    except RefusedError as error:
        return error.as_dict()


def by_batches(talks: Sequence[Conversation], encoder: Encoder, template: Template, size: int, **asked: Any) -> Any:
    glance = Glance(Checking(encoder, template, **asked))
    for start in range(0, len(talks), size):
        columns = Columns()
        for talk in talks[start : start + size]:
            columns.add(talk, "")
        glance.check(columns.take())
    return outcome(glance.checking.end)


def assert_same(talks: Sequence[Conversation], encoder: Encoder, template: Template, size: int, **asked: Any) -> None:
    one_by_one = outcome(lambda: check_data(talks, encoder, template, **asked))
    assert by_batches(talks, encoder, template, size, **asked) == one_by_one


@pytest.mark.parametrize("template", [*TEMPLATES.values(), *MUTANTS], ids=lambda t: f"{type(t).__name__}-{t.name}")
@given(
    given=TALKS, size=st.integers(1, 12), max_tokens=st.sampled_from([24, 2048]), max_turns=st.sampled_from([None, 1])
)
@examples(2, 6)
def test_the_same_as_one_by_one(
    encoder: Encoder, template: Template, given: Any, size: int, max_tokens: int, max_turns: int | None
) -> None:
    talks = [Conversation(messages=tuple(m), source=f"a.json:{n}") for n, m in enumerate(given, 1)]
    assert_same(talks, encoder, template, size, max_tokens=max_tokens, max_turns=max_turns)


def test_a_fault_far_behind_is_found(encoder: Encoder) -> None:
    good = [conversation("你好", "你好呀", "再见", "再见啦", source=f"好.json:{n}") for n in range(1, 40)]
    bad = conversation("问", "答", "问", "答", source="坏.json:9", learn=[False, False])
    assert_same([*good, bad, *good], encoder, LLAMA2, 16, max_tokens=999)
    late = conversation(*["你好"] * 400, source="长.json:1")
    assert_same([*good, late], encoder, LLAMA2, 16, max_tokens=64)


def test_the_models_own_template_is_compared(encoder: Encoder) -> None:
    talks = [conversation("你好", "你好呀", source=f"好.json:{n}") for n in range(1, 30)]
    for is_explicit in (False, True):
        asked = {"max_tokens": 999, "chat_template": shapes.LLAMA2, "is_explicit": is_explicit}
        assert_same(talks, encoder, TEMPLATES["belle"], 16, **asked)
    assert_same(talks, encoder, LLAMA2, 16, max_tokens=999, chat_template=shapes.LLAMA2)


def test_most_conversations_are_not_looked_at(sp_tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = []
    monkeypatch.setattr(module, "to_conversation", lambda row: looked.append(row) or _conversation(row))
    talks = [conversation(f"第{n}个问题", f"第{n}个回答", source=f"a:{n}") for n in range(100)]
    by_batches(talks, encoder_of(sp_tokenizer), LLAMA2, 30, max_tokens=999)
    assert len(looked) == module.LOOKED_AT + 1


_conversation = module.to_conversation


def test_a_prepared_folder(tmp_path: Any, encoder: Encoder) -> None:
    lines = [f"第{n}个问题\t这是第{n}个回答" for n in range(60)]
    (tmp_path / "a.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    prepare([str(tmp_path / "a.txt")], tmp_path / "out")
    prepared = open_prepared(tmp_path / "out")
    wanted = check_data(prepared.conversations("train"), encoder, LLAMA2, max_tokens=99)
    assert check_prepared(prepared, encoder, LLAMA2, max_tokens=99) == wanted
    assert wanted.samples == prepared.count("train")
