"""The batch file: in order, resumable at any byte, and one line for every record."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hantune.data.types import Conversation, Message, Reject
from hantune.errors import ConfigError, DataError, RunError
from hantune.infer.batch import Question, answer_file, read_questions
from hantune.infer.engine import Engine
from hantune.infer.sample import SamplingParams
from hantune.log import console
from hantune.paths import held

PARAMS = SamplingParams(max_tokens=5, temperature=0.8, seed=3)
TEXTS = [
    "你好",
    "推荐一道家常菜。今天天气很好，我们去公园散步吧。",
    "你叫什么名字？",
    "Hello",
    "今天心情不太好。",
    "晚安",
    "谢谢",
]


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "问题.jsonl"
    path.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in TEXTS), encoding="utf-8")
    return path


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def texts(items: list[Question | Reject]) -> list[tuple[list[str], str | None]]:
    return [([m.text for m in item.messages], item.reference) for item in items if isinstance(item, Question)]


def test_answers_stand_in_order_and_are_those_of_one_by_one(llama: Engine, questions: Path, tmp_path: Path) -> None:
    output = tmp_path / "out" / "回答.jsonl"
    counts = answer_file(llama, questions, output, PARAMS, batch_size=3)
    assert counts == {"answers": 7, "errors": 0, "resumed": 0}
    found = rows(output)
    assert [(row["index"], row["prompt"]) for row in found] == list(enumerate(TEXTS))
    for number, row in enumerate(found):
        alone = llama.answer_many([[Message(role="user", text=row["prompt"])]], PARAMS, seeds=[3 + number])[0]
        assert (row["answer"], row["finish_reason"], row["usage"]) == (alone.text, alone.finish_reason, alone.usage)
    assert [path.name for path in output.parent.iterdir()] == ["回答.jsonl"]


class Killed(BaseException):
    """The end of a process, as far as Python can feel it."""


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(
    llama: Engine, questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, output = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    answer_file(llama, questions, whole, PARAMS, batch_size=2)
    finish = llama.finish

    def dies(*given: Any) -> Any:
        for count, item in enumerate(finish(*given)):
            if count == 4:
                raise Killed
            yield item

    monkeypatch.setattr(llama, "finish", dies)
    with pytest.raises(Killed):
        answer_file(llama, questions, output, PARAMS, batch_size=2)
    assert not output.exists()
    part = tmp_path / "out.jsonl.part"
    part.write_bytes(part.read_bytes() + b'{"index": 4, "pro')
    monkeypatch.setattr(llama, "finish", finish)
    counts = answer_file(llama, questions, output, PARAMS, batch_size=2)
    assert counts["resumed"] == 4
    assert output.read_bytes() == whole.read_bytes()
    assert not part.exists()


@pytest.mark.parametrize("change", ["input", "settings", "header"])
def test_another_runs_part_is_not_gone_on_with(llama: Engine, questions: Path, tmp_path: Path, change: str) -> None:
    output = tmp_path / "out.jsonl"
    part = tmp_path / "out.jsonl.part"
    answer_file(llama, questions, output, PARAMS)
    fresh = output.read_bytes()
    header = b'{"hantune_batch": 1}\n' if change == "header" else b""
    part.write_bytes(header + fresh[:-20])
    console.warnings.clear()
    params = SamplingParams(max_tokens=4) if change == "settings" else PARAMS
    if change == "input":
        questions.write_text('{"prompt": "再见"}\n', encoding="utf-8")
    assert answer_file(llama, questions, output, params)["resumed"] == 0
    assert any("从头开始" in warning for warning in console.warnings)
    assert len(rows(output)) == (1 if change == "input" else 7)


def test_the_batch_size_changes_nothing(bloom: Engine, questions: Path, tmp_path: Path) -> None:
    outputs = [tmp_path / f"{size}.jsonl" for size in (1, 3, 8)]
    for output, size in zip(outputs, (1, 3, 8), strict=True):
        answer_file(bloom, questions, output, PARAMS, batch_size=size)
    assert len({output.read_bytes() for output in outputs}) == 1


def test_every_kind_of_record_is_a_question(tmp_path: Path) -> None:
    def read(name: str, text: str) -> list[tuple[list[str], str | None]]:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return texts(list(read_questions(path)))

    user, said = {"role": "user", "content": "问"}, {"role": "assistant", "content": "答"}
    assert read("a.jsonl", '{"prompt": "问"}\n') == [(["问"], None)]
    assert read("b.json", json.dumps([{"messages": [user]}, {"messages": [user, said]}])) == [
        (["问"], None),
        (["问"], "答"),
    ]
    assert read("c.json", json.dumps([[user, said, user]])) == [(["问", "答", "问"], None)]
    alpaca = [{"instruction": "问", "input": "料", "output": "答"}, {"instruction": "问", "input": "", "output": ""}]
    assert read("d.json", json.dumps(alpaca)) == [(["问\n料"], "答"), (["问"], None)]
    assert read("e.csv", "question,answer\n问,答\n问二,\n") == [(["问"], "答"), (["问二"], None)]
    assert read("f.csv", "question\n问\n") == [(["问"], None)]
    assert read("h.txt", "问一\n问二\n") == [(["问一"], None), (["问二"], None)]
    assert read("g.jsonl", '["一", "二", "三", "四"]\n') == [(["一", "二", "三"], "四")]


def test_prepared_folders_are_asked_their_validation_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Folder:
        def count(self, part: str) -> int:
            return 1

        def conversations(self, part: str) -> list[Conversation]:
            messages = (Message(role="user", text="问"), Message(role="assistant", text=part))
            return [Conversation(messages=messages, source="a:1")]

    for name in ("manifest.json", "train.parquet", "val.parquet"):
        (tmp_path / name).write_text('{"fingerprint": "x", "train": 1, "val": 1}', encoding="utf-8")
    monkeypatch.setattr("hantune.infer.batch.open_prepared", lambda path: Folder())
    assert texts(list(read_questions(tmp_path))) == [(["问"], "val")]


def test_a_row_that_cannot_be_asked_keeps_its_line(llama: Engine, tmp_path: Path) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    long = "龘" * 300
    source.write_text(
        f'{{"prompt": "你好"}}\n{{"prompt": \n{{"prompt": "{long}"}}\n{{"prompt": "晚安"}}\n', encoding="utf-8"
    )
    assert answer_file(llama, source, output, PARAMS) == {"answers": 2, "errors": 2, "resumed": 0}
    found = rows(output)
    assert [row["answer"] is None for row in found] == [False, True, True, False]
    assert found[1]["source"].endswith("in.jsonl:2")
    assert "infer.prompt-too-long" in found[2]["error"]


def test_references_and_histories_are_kept(llama: Engine, tmp_path: Path) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('["一", "二", "三", "四"]\n', encoding="utf-8")
    answer_file(llama, source, output, PARAMS)
    row = rows(output)[0]
    assert (row["prompt"], row["reference"]) == ("三", "四")
    assert [message["content"] for message in row["messages"]] == ["一", "二", "三"]


def test_nothing_to_ask_is_an_error(llama: Engine, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text("{broken\n{broken too\n", encoding="utf-8")
    with pytest.raises(DataError) as caught:
        answer_file(llama, source, tmp_path / "out.jsonl", PARAMS)
    assert caught.value.code == "infer.batch-empty"
    assert not (tmp_path / "out.jsonl.part").exists()


def test_other_weights_under_the_same_name_begin_anew(
    tiny_llama: Callable[..., Any], llama: Engine, questions: Path, tmp_path: Path
) -> None:
    from hantune.infer.batch import _identity

    folder = tmp_path / "model"
    tiny_llama(llama.encoder.tokenizer).save_pretrained(folder)
    llama.name = str(folder)
    before = _identity(llama)
    tiny_llama(llama.encoder.tokenizer, seed=9).save_pretrained(folder)
    assert _identity(llama) != before


@pytest.mark.parametrize("name", ["问题.jsonl", "."])
def test_an_output_that_would_destroy_something_is_refused(
    llama: Engine, questions: Path, tmp_path: Path, name: str
) -> None:
    before = questions.read_bytes()
    with pytest.raises(ConfigError) as caught:
        answer_file(llama, questions, tmp_path / name, PARAMS)
    assert caught.value.code == "infer.bad-output"
    assert [path.name for path in tmp_path.iterdir()] == [questions.name]
    assert questions.read_bytes() == before


def test_two_processes_do_not_write_one_file(llama: Engine, questions: Path, tmp_path: Path) -> None:
    output = tmp_path / "回答.jsonl"
    with held(tmp_path / "回答.jsonl.part"), pytest.raises(RunError) as caught:
        answer_file(llama, questions, output, PARAMS)
    assert caught.value.code == "run.in-use"
    console.warnings.clear()
    answer_file(llama, questions, output, PARAMS)
    assert len(rows(output)) == len(TEXTS)
    assert not console.warnings
