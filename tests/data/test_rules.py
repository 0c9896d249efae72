"""Every rule of the check has a planted fault that it finds."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest

from hantune.data.check import check_data
from hantune.data.templates import TEMPLATES, Template
from hantune.data.tokens import Encoder
from hantune.errors import RefusedError
from tests.data.dialogues import conversation, encoder_of
from tests.data.mutants import AddsNewline, EndsWithWords, ForgetsTerminator

LLAMA2 = TEMPLATES["llama2"]
GOOD = [conversation("你好", "你好呀", "再见", "再见啦", source=f"好.json:{n}") for n in (1, 2)]


@pytest.fixture
def encoder(sp_tokenizer: Any) -> Encoder:
    return encoder_of(sp_tokenizer)


def refused(encoder: Encoder, template: Template) -> RefusedError:
    """The refusal that good data must meet with a bad template or tokenizer."""
    with pytest.raises(RefusedError) as caught:
        check_data(GOOD, encoder, template, max_tokens=999)
    return caught.value


def test_terminator_that_is_not_learned(encoder: Encoder) -> None:
    error = refused(encoder, ForgetsTerminator(name="llama2"))
    assert error.code == "mask.terminator-not-learned"
    assert error.place == "好.json:1"
    assert "第 1 个回答" in error.message
    assert "2 条里有 2 条" in error.message


def test_terminator_that_the_tokenizer_lacks(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder, "marks", replace(encoder.marks, eos=""))
    assert refused(encoder, LLAMA2).code == "mask.terminator-not-learned"


def test_terminator_of_words_is_a_terminator(encoder: Encoder) -> None:
    assert check_data(GOOD, encoder, EndsWithWords(name="llama2"), max_tokens=999).findings == []


def test_prompt_that_is_no_prefix(encoder: Encoder) -> None:
    error = refused(encoder, AddsNewline(name="llama2"))
    assert (error.code, error.place) == ("mask.prompt-not-prefix", "好.json:1")
    assert "词元" in error.message


def test_pad_that_is_learned(sp_tokenizer: Any) -> None:
    tokenizer = copy.deepcopy(sp_tokenizer)
    tokenizer.pad_token = tokenizer.eos_token
    assert refused(Encoder(tokenizer), LLAMA2).code == "mask.pad-learned"


def test_control_texts_of_several_tokens_are_warned_of(encoder: Encoder) -> None:
    report = check_data(GOOD, encoder, TEMPLATES["chatml"], max_tokens=999)
    assert [(f.code, f.level, f.count) for f in report.findings] == [("template.control-not-token", "warn", 2)]


def test_unknown_tokens_are_warned_of() -> None:
    from tokenizers import AddedToken, Tokenizer, pre_tokenizers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(BPE(vocab={"<unk>": 0, "</s>": 1, "[": 2, "]": 3, "好": 4}, merges=[], unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="never", split=False)
    core.add_special_tokens([AddedToken("<unk>", normalized=False), AddedToken("</s>", normalized=False)])
    encoder = Encoder(PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", eos_token="</s>"))
    report = check_data([conversation("好", "好龘")], encoder, LLAMA2, max_tokens=999)
    assert [finding.code for finding in report.findings] == ["mask.unknown-token"]
    assert report.unknown > 0
