"""Figures that can be counted by hand, and warnings where they should be."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import pytest

from hantune.data import stats
from hantune.data.prepare import prepare
from hantune.data.prepared import open_prepared
from hantune.data.raw import RawData
from hantune.data.sketch import sketch
from hantune.data.stats import Model, statistics
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
    assert (found["turns"]["mean"], found["turns"]["median"], found["turns"]["max"]) == (1.5, 1, 2)
    assert found["answer_characters"]["total"] == 1 + 2 + 7
    assert found["question_characters"]["total"] == 2 + 1 + 1
    assert found["dialogue_characters"]["max"] == 11
    assert found["chinese_share"] == round(7 / 9, 4)
    assert found["languages"]["answers"] == {
        "chinese": 0.666667,
        "mixed": 0.333333,
        "english": 0,
        "other": 0,
        "none": 0,
    }
    assert found["short_answers"] == 1.0
    assert "会只说短句" in found["warnings"][0]


def test_no_conversation_at_all() -> None:
    found = statistics(Data())
    assert found["conversations"] == 0
    assert found["warnings"] == []


def test_english_answers_are_warned_of() -> None:
    found = statistics(Data(("你好", "Hello, how are you doing today?")))
    assert any("汉字" in warning for warning in found["warnings"])


def test_duplicates_are_warned_of() -> None:
    found = statistics(Data(("你好", "我很好"), ("你好 ", "我 很好"), ("早", "早上好呀")))
    assert found["duplicates"] == {"count": 1, "share": 0.333333, "groups": 1, "most": 2}
    assert any("--dedup exact" in warning for warning in found["warnings"])


def test_tokens_of_several_tokenizers(sp_tokenizer: Any, byte_tokenizer: Any) -> None:
    template = get_template("llama2")
    models = [Model("one", Encoder(sp_tokenizer), template), Model("two", Encoder(byte_tokenizer), template)]
    data = Data(("你好", "好的"), ("你好", "你好" * 400))
    found = statistics(data, models)["tokens"]
    assert [each["model"] for each in found] == ["one", "two"]
    for (_, encoder, _), figures in zip(models, found, strict=True):
        examples = [encoder.encode(template.render(c.messages, encoder.marks)) for c in data.conversations("train")]
        assert figures["samples"]["total"] == sum(len(example.ids) for example in examples)
        learned = sum(sum(example.mask) for example in examples)
        assert figures["answers"]["total"] == learned
        assert figures["supervised_share"] == round(learned / figures["samples"]["total"], 4)
        is_cut = {str(limit): float(len(examples[1].ids) > limit) / 2 for limit in (512, 1024, 2048)}
        assert figures["cut"] == is_cut
        assert figures["per_character"] > 0.1


def test_cut_answers_are_warned_of(byte_tokenizer: Any) -> None:
    model = Model("m", Encoder(byte_tokenizer), get_template("belle"))
    found = statistics(Data(("问", "长长的回答龘" * 400)), [model])
    assert any("max_tokens=1024 时有 100% 的回答会被截断 (m)" in warning for warning in found["warnings"])


@pytest.fixture
def prepared_folder(tmp_path: Path) -> Path:
    lines = [f"第{i % 50}个问题 abc\t这是第{i % 50}个回答{'啊' * (i % 7)}" for i in range(300)]
    (tmp_path / "a.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    prepare([str(tmp_path / "a.txt")], tmp_path / "out", val_share=0.1)
    return tmp_path / "out"


def test_processes_and_batches_change_no_figure(
    prepared_folder: Path, tmp_path: Path, sp_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared, models = open_prepared(prepared_folder), [Model("m", Encoder(sp_tokenizer), get_template("llama2"))]
    alone = statistics(prepared, models)
    assert (alone["conversations"], alone["train"]) == (300, prepared.count("train"))
    with monkeypatch.context() as patch:
        patch.setattr(stats, "MANY", 1)
        patch.setattr(stats, "cores", lambda: 2)
        assert statistics(prepared, models) == alone
    raw = statistics(RawData(str(tmp_path / "a.txt")), models)
    assert {**raw, "train": 0, "val": 0} == {**alone, "train": 0, "val": 0}


def test_a_sketch_of_few_is_exact(prepared_folder: Path) -> None:
    found = sketch(prepared_folder)
    prepared = open_prepared(prepared_folder)
    assert found["rows"] == found["sampled"] == prepared.count("train")
    assert found["duplicates"]["count"] == found["rows"] - len(set(prepared.ids("train")))


def test_a_sketch_of_many_is_a_sample(prepared_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow.parquet as pq

    table = pq.read_table(prepared_folder / "train.parquet")
    pq.write_table(table, prepared_folder / "train.parquet", row_group_size=20)
    monkeypatch.setattr("hantune.data.sketch.SAMPLED_GROUPS", 3)
    found = sketch(prepared_folder)
    assert (found["rows"], found["sampled"]) == (table.num_rows, 60)
    assert found["duplicates"]["count"] == table.num_rows - len(set(table["id"].to_pylist()))


def test_llama2_figures_of_the_toy_file(shared_data: Any, llama2_tokenizer: Any) -> None:
    """1.63 tokens a character, as formats.md says of desegmented LCCC text (2.54 with its blanks)."""
    raw = RawData(str(shared_data / "lccc" / "lccc_toy_split.json"))
    dialogues = [tuple(m.text for m in c.messages) for c in islice(raw.conversations("train"), 300)]
    found = statistics(Data(*dialogues), [Model("llama2", Encoder(llama2_tokenizer), get_template("llama2"))])
    assert found["tokens"][0]["per_character"] == pytest.approx(1.63, abs=0.05)
