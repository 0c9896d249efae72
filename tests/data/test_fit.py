"""What does not fit is left out by whole turns, and nothing false is learned."""

from __future__ import annotations

from typing import Any

import pytest

from hantune.data.fit import fit, fit_many
from hantune.data.templates import TEMPLATES, get_template
from hantune.data.tokens import Encoder
from hantune.data.types import Conversation
from hantune.errors import DataError
from tests.data.dialogues import conversation, encoder_of, talk


@pytest.fixture(scope="session", params=["sp_tokenizer", "byte_tokenizer"])
def encoder(request: pytest.FixtureRequest) -> Encoder:
    return encoder_of(request.getfixturevalue(request.param))


@pytest.fixture(scope="session")
def llama2(llama2_tokenizer: Any) -> Encoder:
    return encoder_of(llama2_tokenizer)


THREE = ("问题一", "回答一", "问题二", "回答二", "问题三", "回答三")


@pytest.mark.parametrize("name", ["llama2", "chatml", "belle"])
def test_turns_are_dropped_whole_from_the_end(name: str, encoder: Encoder) -> None:
    template = TEMPLATES[name]
    whole = [
        encoder.encode(template.render(talk(*THREE[: 2 * n]), encoder.marks), source="a.json:1") for n in (1, 2, 3)
    ]
    for limit in range(len(whole[0].ids), len(whole[2].ids) + 1):
        fitting = max((e for e in whole if len(e.ids) <= limit), key=lambda e: len(e.ids))
        assert fit(conversation(*THREE), template, encoder, limit) == fitting


def test_first_turn_alone_is_cut_without_a_false_end(llama2: Encoder) -> None:
    template = TEMPLATES["llama2"]
    whole = fit(conversation(*THREE[:2]), template, llama2, 999)
    assert whole is not None
    shorter = fit(conversation(*THREE), template, llama2, len(whole.ids) - 1)
    assert shorter is not None
    assert shorter.is_cut
    assert shorter.ids == whole.ids[:-1]
    assert 2 not in [token for token, learn in zip(shorter.ids, shorter.mask, strict=True) if learn]


def test_nothing_learned_left_is_none(llama2: Encoder) -> None:
    template = TEMPLATES["llama2"]
    assert fit(conversation(*THREE), template, llama2, 5) is None
    assert fit(conversation("问", "答", learn=[False]), template, llama2, 99) is None
    assert fit(conversation("问"), template, llama2, 99) is None


def test_lost_answers_are_counted(llama2: Encoder) -> None:
    whole = fit_many([conversation(*THREE)], TEMPLATES["llama2"], llama2, max_tokens=999)[0]
    assert (whole.answers, whole.lost, whole.characters) == (3, 0, 9)
    limit = whole.length - 1
    cut_short = fit_many([conversation(*THREE)], TEMPLATES["llama2"], llama2, max_tokens=limit)[0]
    assert (cut_short.answers, cut_short.lost, cut_short.characters) == (3, 1, 6)
    one = fit_many([conversation(*THREE)], TEMPLATES["llama2"], llama2, max_tokens=999, max_turns=1)[0]
    assert (one.answers, one.lost, one.characters) == (1, 0, 3)


def test_error_in_a_sample_names_its_source(llama2: Encoder) -> None:
    wrong = Conversation(messages=tuple(reversed(talk("问", "答"))) + tuple(talk("问", "答")), source="a.json:7")
    with pytest.raises(DataError) as caught:
        fit(wrong, get_template("llama2"), llama2, 99)
    assert (caught.value.code, caught.value.place) == ("template.roles", "a.json:7")
