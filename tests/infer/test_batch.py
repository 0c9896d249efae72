"""The batch file: in order, resumable at any byte, and one line for every record."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hantune.data.types import Message
from hantune.errors import ConfigError, DataError, RunError
from hantune.infer.batch import PlainForm, answer_file
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


def test_answers_stand_in_order_and_are_those_of_one_by_one(llama: Engine, questions: Path, tmp_path: Path) -> None:
    output = tmp_path / "out" / "回答.jsonl"
    counts = answer_file(lambda: llama, questions, output, PARAMS, batch_size=3)
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
    answer_file(lambda: llama, questions, whole, PARAMS, batch_size=2)
    finish = llama.finish

    def dies(*given: Any) -> Any:
        for count, item in enumerate(finish(*given)):
            if count == 4:
                raise Killed
            yield item

    monkeypatch.setattr(llama, "finish", dies)
    with pytest.raises(Killed):
        answer_file(lambda: llama, questions, output, PARAMS, batch_size=2)
    assert not output.exists()
    part = tmp_path / "out.jsonl.part"
    part.write_bytes(part.read_bytes() + b'4 {"index": 4, "pro')
    monkeypatch.setattr(llama, "finish", finish)
    counts = answer_file(lambda: llama, questions, output, PARAMS, batch_size=2)
    assert counts["resumed"] == 4
    assert output.read_bytes() == whole.read_bytes()
    assert not part.exists()


@pytest.mark.parametrize("change", ["input", "settings", "header"])
def test_another_runs_part_is_not_gone_on_with(llama: Engine, questions: Path, tmp_path: Path, change: str) -> None:
    output = tmp_path / "out.jsonl"
    part = tmp_path / "out.jsonl.part"
    answer_file(lambda: llama, questions, output, PARAMS)
    fresh = output.read_bytes()
    header = b'{"hantune_batch": 1}\n' if change == "header" else b""
    part.write_bytes(header + fresh[:-20])
    console.warnings.clear()
    params = SamplingParams(max_tokens=4) if change == "settings" else PARAMS
    if change == "input":
        questions.write_text('{"prompt": "再见"}\n', encoding="utf-8")
    assert answer_file(lambda: llama, questions, output, params)["resumed"] == 0
    assert any("从头开始" in warning for warning in console.warnings)
    assert len(rows(output)) == (1 if change == "input" else 7)


def test_the_batch_size_changes_nothing(bloom: Engine, questions: Path, tmp_path: Path) -> None:
    outputs = [tmp_path / f"{size}.jsonl" for size in (1, 3, 8)]
    for output, size in zip(outputs, (1, 3, 8), strict=True):
        answer_file(lambda: bloom, questions, output, PARAMS, batch_size=size)
    assert len({output.read_bytes() for output in outputs}) == 1


def test_a_row_that_cannot_be_asked_keeps_its_line(llama: Engine, tmp_path: Path) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    long = "龘" * 300
    source.write_text(
        f'{{"prompt": "你好"}}\n{{"prompt": \n{{"prompt": "{long}"}}\n{{"prompt": "晚安"}}\n', encoding="utf-8"
    )
    assert answer_file(lambda: llama, source, output, PARAMS) == {"answers": 2, "errors": 2, "resumed": 0}
    found = rows(output)
    assert [row["answer"] is None for row in found] == [False, True, True, False]
    assert found[1]["source"].endswith("in.jsonl:2")
    assert "infer.prompt-too-long" in found[2]["error"]


def test_references_and_histories_are_kept(llama: Engine, tmp_path: Path) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('["一", "二", "三", "四"]\n', encoding="utf-8")
    answer_file(lambda: llama, source, output, PARAMS)
    row = rows(output)[0]
    assert (row["prompt"], row["reference"]) == ("三", "四")
    assert [message["content"] for message in row["messages"]] == ["一", "二", "三"]


def test_nothing_to_ask_is_an_error(llama: Engine, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text("{broken\n{broken too\n", encoding="utf-8")
    with pytest.raises(DataError) as caught:
        answer_file(lambda: llama, source, tmp_path / "out.jsonl", PARAMS)
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
        answer_file(lambda: llama, questions, tmp_path / name, PARAMS)
    assert caught.value.code == "infer.bad-output"
    assert [path.name for path in tmp_path.iterdir()] == [questions.name]
    assert questions.read_bytes() == before


def test_two_processes_do_not_write_one_file(llama: Engine, questions: Path, tmp_path: Path) -> None:
    output = tmp_path / "回答.jsonl"
    opened: list[bool] = []

    def opens() -> Engine:
        opened.append(True)
        return llama

    with held(tmp_path / "回答.jsonl.part"), pytest.raises(RunError) as caught:
        answer_file(opens, questions, output, PARAMS)
    assert caught.value.code == "run.in-use"
    assert not opened
    console.warnings.clear()
    answer_file(lambda: llama, questions, output, PARAMS)
    assert len(rows(output)) == len(TEXTS)
    assert not console.warnings


def test_a_model_that_cannot_be_loaded_leaves_nothing(questions: Path, tmp_path: Path) -> None:
    def fails() -> Engine:
        raise ConfigError("model.missing", "没有")

    with pytest.raises(ConfigError):
        answer_file(fails, questions, tmp_path / "out" / "回答.jsonl", PARAMS)
    assert not list((tmp_path / "out").iterdir())


def test_a_torn_first_line_of_the_part_is_no_other_run(llama: Engine, questions: Path, tmp_path: Path) -> None:
    console.warnings.clear()
    (tmp_path / "out.jsonl.part").write_bytes(b'{"form": ["pl')
    assert answer_file(lambda: llama, questions, tmp_path / "out.jsonl", PARAMS)["resumed"] == 0
    assert not console.warnings


@pytest.mark.parametrize(
    ("record", "said", "target"),
    [
        ({"input": "Human: 你好\n\nAssistant: ", "target": "好"}, "你好", "好"),
        ({"instruction": "写诗", "input": "春", "output": ""}, "写诗\n春", ""),
        ({"conversations": [{"from": "human", "value": "你好"}]}, "你好", ""),
    ],
)
def test_belles_dev_files_are_answered_in_its_own_words_too(
    llama: Engine, tmp_path: Path, record: dict[str, Any], said: str, target: str
) -> None:
    source, output = tmp_path / "dev.json", tmp_path / "out.jsonl"
    source.write_text(json.dumps(record) + "\n", encoding="utf-8")
    answer_file(lambda: llama, source, output, PARAMS)
    row = rows(output)[0]
    assert (row["prompt"], row["input"], row["target"]) == (said, f"[INST] {said} [/INST]", target)
    assert row["predict"] == row["answer"]


def test_a_system_message_goes_to_questions_without_one(llama: Engine, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    own = {"messages": [{"role": "system", "content": "自己的"}, {"role": "user", "content": "问"}]}
    source.write_text(json.dumps(own) + '\n{"messages": [{"role": "user", "content": "问"}]}\n', encoding="utf-8")
    outputs = [tmp_path / f"{name}.jsonl" for name in ("plain", "system")]
    answer_file(lambda: llama, source, outputs[0], PARAMS)
    answer_file(lambda: llama, source, outputs[1], PARAMS, form=PlainForm(system="命令的"))
    plain, other = ([row.get("messages", [{}])[0].get("content") for row in rows(output)] for output in outputs)
    assert (plain, other) == (["自己的", None], ["自己的", "命令的"])
