"""Figures that can be counted by hand, and warnings where they should be."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import pytest

from hantune.data.stats import as_text, histogram, statistics
from hantune.data.templates import get_template
from hantune.data.tokens import Encoder
from hantune.data.types import Conversation, Message


class Data:
    """Conversations of (question, answer, ...) texts, all of them for training."""

    def __init__(self, *dialogues: tuple[str, ...]) -> None:
        self.dialogues = dialogues

    def conversations(self, part: Literal["train", "val"]) -> Iterator[Conversation]:
        for texts in self.dialogues if part == "train" else ():
            roles: tuple[Literal["user", "assistant"], ...] = ("user", "assistant") * (len(texts) // 2)
            messages = [Message(role=role, text=text) for role, text in zip(roles, texts, strict=True)]
            yield Conversation(messages=tuple(messages))


def test_counts() -> None:
    found = statistics(Data(("你好", "好"), ("一", "二二", "三", "四四四四 ab")))
    assert (found["conversations"], found["train"], found["val"]) == (2, 2, 0)
    assert found["turns"] == {"mean": 1.5, "median": 1.5, "p95": pytest.approx(1.95), "max": 2, "total": 3}
    assert found["answer_characters"]["total"] == 1 + 2 + 7
    assert found["chinese_share"] == round(7 / 9, 4)
    assert found["short_answers"] == 1.0
    assert "会只说短句" in found["warnings"][0]


def test_no_conversation_at_all() -> None:
    found = statistics(Data())
    assert found["conversations"] == 0
    assert found["warnings"] == []
    as_text(found)


def test_every_length_has_its_class() -> None:
    lengths = np.arange(1, 100)
    classes = histogram(lengths)
    assert sum(item["count"] for item in classes) == len(lengths)
    assert [(item["from"], item["to"]) for item in classes[:3]] == [(1, 3), (4, 7), (8, 15)]
    assert [a["to"] + 1 for a in classes[:-1]] == [b["from"] for b in classes[1:]]


def test_english_answers_are_warned_of() -> None:
    found = statistics(Data(("你好", "Hello, how are you doing today?")))
    assert any("汉字" in warning for warning in found["warnings"])


def test_tokens(sp_tokenizer: Any) -> None:
    encoder, template = Encoder(sp_tokenizer), get_template("llama2")
    data = Data(("你好", "好的"), ("你好", "你好" * 400))
    found = statistics(data, encoder, template)["tokens"]
    examples = [encoder.encode(template.render(c.messages, encoder.marks)) for c in data.conversations("train")]
    assert found["samples"]["total"] == sum(len(example.ids) for example in examples)
    learned = sum(sum(example.mask) for example in examples)
    assert found["supervised_share"] == round(learned / found["samples"]["total"], 4)
    is_cut = {str(limit): float(len(examples[1].ids) > limit) / 2 for limit in (512, 1024, 2048)}
    assert found["cut"] == is_cut
    assert found["per_character"] > 0.1


def test_llama2_figures_of_the_toy_file(shared_data: Any, llama2_tokenizer: Any) -> None:
    """1.63 tokens a character, as formats.md says of desegmented LCCC text (2.54 with its blanks)."""
    from itertools import islice

    from hantune.data.raw import RawData

    raw = RawData(str(shared_data / "lccc" / "lccc_toy_split.json"))
    dialogues = [tuple(m.text for m in c.messages) for c in islice(raw.conversations("train"), 300)]
    found = statistics(Data(*dialogues), Encoder(llama2_tokenizer), get_template("llama2"))
    assert found["tokens"]["per_character"] == pytest.approx(1.63, abs=0.05)
    as_text(found).encode("gbk")
