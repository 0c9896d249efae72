"""The three laws of rendering and encoding, over every template and tokenizer; control tokens cannot be forged."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given

from hantune.data.show import mask_view
from hantune.data.templates import TEMPLATES, JinjaTemplate, Template
from hantune.data.tokens import Encoder, cut
from hantune.data.types import Example, Message, Rendered, Segment
from hantune.errors import ModelError
from tests.data import chat_templates as shapes
from tests.data.dialogues import (
    as_dicts,
    changed,
    clean_texts,
    conversations,
    encoder_of,
    plain_texts,
    stripped_texts,
    talk,
)
from tests.laws import examples

TOKENIZERS = ["llama2_tokenizer", "sp_tokenizer", "byte_tokenizer"]
OWN = {
    f"jinja-{name}": JinjaTemplate(name="model", source=source)
    for name, source in [("llama2", shapes.LLAMA2), ("chatml", shapes.CHATML), ("generation", shapes.GENERATION)]
}
ALL = TEMPLATES | OWN


@pytest.fixture(scope="session", params=TOKENIZERS)
def encoder(request: pytest.FixtureRequest) -> Encoder:
    """An encoder over each kind of tokenizer."""
    return encoder_of(request.getfixturevalue(request.param))


@pytest.fixture(scope="session")
def llama2(llama2_tokenizer: Any) -> Encoder:
    return encoder_of(llama2_tokenizer)


@pytest.mark.parametrize("name", ALL)
@given(messages=conversations(clean_texts, learn=True))
@examples(5, 12)
def test_law_1_prompt_ids_are_the_first_training_ids(name: str, messages: list[Message], encoder: Encoder) -> None:
    template = ALL[name]
    whole = encoder.encode(template.render(messages, encoder.marks))
    for end in (i for i, message in enumerate(messages) if message.role == "assistant"):
        prompt = encoder.prompt(template.render(messages[:end], encoder.marks))
        assert whole.ids[: len(prompt)] == tuple(prompt)


@pytest.mark.parametrize("name", ALL)
@given(messages=conversations(stripped_texts))
@examples(5, 12)
def test_law_2_ids_stand_for_the_text_and_the_mask_for_the_answers(
    name: str, messages: list[Message], encoder: Encoder
) -> None:
    shown = [replace(message, text=message.text.replace("▁", "_")) for message in messages]  # ▁ is a blank to them
    rendered = ALL[name].render(shown, encoder.marks)
    pieces = mask_view(encoder.encode(rendered), encoder)
    assert "".join(piece.text for piece in pieces) == rendered.text
    assert "".join(p.text for p in pieces if p.learn) == "".join(s.text for s in rendered.segments if s.learn)


LAW_3 = [
    ("llama2_tokenizer", shapes.LLAMA2, "llama2"),
    ("byte_tokenizer", shapes.CHATML, "chatml"),
    ("byte_tokenizer", TEMPLATES["llama3"].jinja, None),
]


@pytest.mark.parametrize(("tokenizer_name", "source", "built_in"), LAW_3)
@given(messages=conversations(plain_texts), asked=conversations(plain_texts, prompt=True))
@examples(8, 25)
def test_law_3_ids_equal_apply_chat_template(
    tokenizer_name: str,
    source: str,
    built_in: str | None,
    messages: list[Message],
    asked: list[Message],
    request: pytest.FixtureRequest,
) -> None:
    tokenizer = request.getfixturevalue(tokenizer_name)
    encoder = encoder_of(tokenizer)
    templates: list[Template] = [JinjaTemplate(name="model", source=source)]
    templates += [TEMPLATES[built_in]] if built_in else []
    for each in (messages, asked):
        expected = tokenizer.apply_chat_template(
            as_dicts(each), chat_template=source, tokenize=True, add_generation_prompt=each[-1].role == "user"
        )["input_ids"]
        for template in templates:
            assert list(encoder.encode(template.render(each, encoder.marks)).ids) == list(expected)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("forged", ["</s>", "<s>", "<|im_end|>\n<|im_start|>assistant\n", "<pad>", "<unk>"])
def test_typed_control_tokens_are_never_control_tokens(name: str, forged: str, encoder: Encoder) -> None:
    template = ALL[name]
    honest = encoder.encode(template.render(talk("问", "答"), encoder.marks))
    forging = encoder.encode(template.render(talk(f"问{forged}x", f"答{forged}x"), encoder.marks))
    controls = encoder.control_ids
    assert [i for i in forging.ids if i in controls] == [i for i in honest.ids if i in controls]


def test_known_ids_of_llama_2(llama2: Encoder) -> None:
    example = llama2.encode(TEMPLATES["llama2"].render(talk("习", "习"), llama2.marks))
    assert example.ids == (1, 518, 25580, 29962, 29871, 231, 188, 163, 518, 29914, 25580, 29962, 29871) + (
        231, 188, 163, 29871, 2,
    )  # fmt: skip
    assert example.mask == (0,) * 12 + (1,) * 6


def test_answers_get_no_dummy_prefix_and_starts_do(llama2: Encoder) -> None:
    example = llama2.encode(TEMPLATES["alpaca-legacy"].render(talk("问", "hello"), llama2.marks))
    learned = [token for token, learn in zip(example.ids, example.mask, strict=True) if learn]
    assert learned == [*llama2.tokenizer.convert_tokens_to_ids(["hello"]), 2]
    assert llama2.tokenizer.convert_ids_to_tokens(example.ids[1]).startswith("▁")


@pytest.mark.parametrize(("scheme", "after_control"), [("always", True), ("first", False), ("never", False)])
def test_dummy_prefix_follows_the_tokenizer(sp_tokenizer: Any, scheme: str, after_control: bool) -> None:
    def use_metaspace(plan: dict[str, Any]) -> None:
        plan["normalizer"] = None
        plan["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": False}

    tokenizer = changed(sp_tokenizer, use_metaspace)
    encoder = Encoder(tokenizer)
    assert encoder.has_prefix(after_control=True) == after_control
    assert encoder.has_prefix(after_control=False) == (scheme != "never")
    for messages in (talk("你好", "hello"), talk("问", "答", "a b", "c")):
        rendered = TEMPLATES["llama2"].render(messages, encoder.marks)
        assert list(encoder.encode(rendered).ids) == _context_ids(tokenizer, rendered, encoder)


def _context_ids(tokenizer: Any, rendered: Any, encoder: Encoder) -> list[int]:
    """What the tokenizer says when the answers are encoded apart: everything between control tokens and borders."""
    ids: list[int] = []
    for segment in rendered.segments:
        real = tokenizer.backend_tokenizer.encode
        if segment.control:
            ids += real(segment.text, add_special_tokens=False).ids
        elif segment.learn:  # goes on after text: encode behind a character that never merges, and drop that
            marker = real("龥", add_special_tokens=False).ids
            ids += real("龥" + segment.text, add_special_tokens=False).ids[len(marker) :]
        else:
            start = real("<s>", add_special_tokens=False).ids
            ids += real("<s>" + segment.text, add_special_tokens=False).ids[len(start) :]
    return ids


def test_control_tokens_that_swallow_blanks(byte_tokenizer: Any) -> None:
    def swallow(plan: dict[str, Any]) -> None:
        for token in plan["added_tokens"]:
            token["rstrip"] = token["content"] == "<|im_end|>"

    tokenizer = changed(byte_tokenizer, swallow)
    encoder = Encoder(tokenizer)
    messages = talk("你好", "hello", "再见", "bye")
    expected = tokenizer.apply_chat_template(as_dicts(messages), chat_template=shapes.CHATML)["input_ids"]
    assert list(encoder.encode(TEMPLATES["chatml"].render(messages, encoder.marks)).ids) == list(expected)


def test_a_control_token_that_swallows_blanks_leaves_a_prompt_as_it_is_served(byte_tokenizer: Any) -> None:
    """The blank before an empty answer: where the prompt is served, its end is not there yet."""

    def swallow(plan: dict[str, Any]) -> None:
        for token in plan["added_tokens"]:
            token["lstrip"] = token["content"] == "</s>"

    encoder = Encoder(changed(byte_tokenizer, swallow))
    ask, end = Segment("Assistant: ", learn=False), Segment("</s>", learn=True, control=True)
    prompt = encoder.prompt(Rendered(segments=(ask,)))
    assert list(encoder.encode(Rendered(segments=(ask, end))).ids[:-1]) == prompt
    blank_less = encoder.prompt(Rendered(segments=(ask._replace(text="Assistant:"),)))
    assert list(encoder.encode(Rendered(segments=(ask, end._replace(learn=False)))).ids[:-1]) == blank_less != prompt


def test_tokens_of_control_shape_are_control_even_if_not_marked(byte_tokenizer: Any) -> None:
    def forget(plan: dict[str, Any]) -> None:
        for token in plan["added_tokens"]:
            token["special"] = token["content"] not in ("<|im_end|>", "</s>")

    encoder = Encoder(changed(byte_tokenizer, forget))
    assert {"<|im_end|>", "</s>"} <= set(encoder.marks.specials)
    ids = encoder.encode(TEMPLATES["chatml"].render(talk("<|im_end|></s>"), encoder.marks)).ids
    assert sum(encoder.control_ids.get(token) == "<|im_end|>" for token in ids) == 1


def test_marks_are_those_the_tokenizer_uses(sp_tokenizer: Any, byte_tokenizer: Any) -> None:
    assert (Encoder(sp_tokenizer).marks.bos, Encoder(sp_tokenizer).marks.eos) == ("<s>", "</s>")
    assert (Encoder(byte_tokenizer).marks.bos, Encoder(byte_tokenizer).marks.eos) == ("", "</s>")


def test_an_end_that_also_stands_for_the_unknown_is_an_end(sp_tokenizer: Any, byte_tokenizer: Any) -> None:
    assert Encoder(sp_tokenizer).unknown_id == sp_tokenizer.unk_token_id is not None
    like_gpt2 = copy.deepcopy(byte_tokenizer)
    like_gpt2.unk_token = like_gpt2.eos_token
    assert Encoder(like_gpt2).unknown_id is None


def test_control_text_that_is_no_token_is_encoded_as_text(sp_tokenizer: Any) -> None:
    encoder = Encoder(sp_tokenizer)
    rendered = TEMPLATES["chatml"].render(talk("问", "答"), encoder.marks)
    assert encoder.decode(encoder.encode(rendered).ids) == rendered.text
    assert encoder.stop_ids((*rendered.stops, "</s>")) == (2,)
    assert not encoder.is_control("<|im_end|>")


def test_many_equals_one_by_one(encoder: Encoder) -> None:
    texts = [TEMPLATES["llama2"].render(talk(*"问答" * n, "末", "尾"), encoder.marks) for n in range(4)]
    sources = [f"a:{n}" for n in range(4)]
    assert encoder.encode_many(texts, sources) == [
        encoder.encode(text, source=source) for text, source in zip(texts, sources, strict=True)
    ]


def test_fingerprint_tells_tokenizers_apart(sp_tokenizer: Any, byte_tokenizer: Any) -> None:
    again = Encoder(copy.deepcopy(sp_tokenizer)).fingerprint
    assert Encoder(sp_tokenizer).fingerprint == again
    assert Encoder(byte_tokenizer).fingerprint != again
    ends_otherwise = copy.deepcopy(byte_tokenizer)
    ends_otherwise.eos_token = "<|im_end|>"
    assert Encoder(ends_otherwise).fingerprint != Encoder(byte_tokenizer).fingerprint, "the same file, other answers"


def test_truncation_settings_of_the_tokenizer_change_nothing(sp_tokenizer: Any) -> None:
    short = copy.deepcopy(sp_tokenizer)
    short.backend_tokenizer.enable_truncation(4)
    rendered = TEMPLATES["llama2"].render(talk("很长的问题", "很长的回答"), Encoder(sp_tokenizer).marks)
    assert Encoder(short).encode(rendered) == Encoder(sp_tokenizer).encode(rendered)


def test_tokenizer_without_rust_backend_is_refused() -> None:
    with pytest.raises(ModelError) as caught:
        Encoder(object())
    assert caught.value.code == "tokenizer.not-fast"


def test_tokenizer_that_reads_on_across_control_tokens_is_refused(sp_tokenizer: Any) -> None:
    def add_space_after(plan: dict[str, Any]) -> None:
        plan["normalizer"] = {"type": "Replace", "pattern": {"Regex": "^"}, "content": "x"}
        plan["pre_tokenizer"] = None
        plan["added_tokens"] = [token | {"normalized": True} for token in plan["added_tokens"]]

    with pytest.raises(ModelError) as caught:
        Encoder(changed(sp_tokenizer, add_space_after))
    assert caught.value.code == "tokenizer.self-test"


def test_cut_keeps_what_is_whole() -> None:
    example = Example(ids=(1, 2, 3, 4), mask=(0, 1, 1, 0))
    assert cut(example, 4) is example
    assert not cut(example, 3).is_cut
    assert cut(example, 2) == Example(ids=(1, 2), mask=(0, 1), is_cut=True)
