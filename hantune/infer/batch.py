"""Questions from a file, answers to a file: in order, one JSON object a line, and resumable after a kill.

Finished answers stand in ``OUTPUT.part``, as they end, under a first line that names input, model and settings. A
second run with the same ones makes only what is missing; ``OUTPUT`` appears, in order, when the last answer is there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from hantune.data.formats import FORMATS, detect
from hantune.data.formats.pairs import NAMES
from hantune.data.prepared import open_prepared
from hantune.data.sources import SourceFile, expand, inspect, read_rows
from hantune.data.types import Conversation, Message, Reject, Row
from hantune.errors import ConfigError, DataError, RefusedError
from hantune.infer.engine import Engine
from hantune.infer.lane import Lane
from hantune.infer.sample import SamplingParams
from hantune.log import console
from hantune.models.adapter import WEIGHTS
from hantune.models.fingerprint import fingerprint
from hantune.paths import disk_errors, held, sha256_file, write_file

LOOKED_AT = 100
"""Records at the head of a file by which its format is recognised."""
PLACEHOLDER = "(这里还没有回答)"
QUESTION_FIELDS = (("instruction", "output"), *NAMES)


@dataclass(frozen=True, kw_only=True)
class Question:
    """What to ask; ``reference`` is the answer that the file itself gives, if it gives one."""

    messages: tuple[Message, ...]
    reference: str | None
    source: str


def read_questions(path: Path) -> Iterator[Question | Reject]:
    """The questions of a file, folder or PREPARED folder (its validation part, or the other one if that is empty).

    Records are ``{"prompt"}``, ``{"messages"}`` or any format of ``hantune data prepare``; an answer may be missing.
    Raises: DataError ``source.*``, ``format.unknown-fields``.
    """
    for place in expand(str(path)):
        source = inspect(place)
        if source.container == "prepared":
            prepared = open_prepared(source.path)
            yield from map(_question, prepared.conversations("val" if prepared.count("val") else "train"))
        else:
            yield from _read_file(source)


def _read_file(source: SourceFile) -> Iterator[Question | Reject]:
    rows = (row if isinstance(row, Reject) else _with_answer(row) for row in read_rows(source))
    head = list(islice(rows, LOOKED_AT))
    known = [row for row in head if isinstance(row, Row)]
    if not known:
        yield from (row for row in head if isinstance(row, Reject))
        return
    kind = FORMATS[detect(known).name]
    for row in chain(head, rows):
        if isinstance(row, Reject):
            yield row
        else:
            yield from (item if isinstance(item, Reject) else _question(item) for item in kind.read(row))


def _with_answer(row: Row) -> Row:
    """The row with a placeholder where the answer to its last question is missing, so that every format can read it."""
    value = row.value
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return Row(value=_closed(value), source=row.source)
    if not isinstance(value, dict):
        return row
    if value.keys() == {"text"}:  # a text file of questions
        value = {"prompt": value["text"]}
    if isinstance(value.get("messages"), list):
        return Row(value={**value, "messages": _closed(value["messages"])}, source=row.source)
    names = {str(name).strip().lower(): name for name in value}
    answers = [answer for question, answer in QUESTION_FIELDS if question in names]
    if answers and not any(value.get(names.get(answer)) for answer in answers):
        return Row(value={**value, names.get(answers[0], answers[0]): PLACEHOLDER}, source=row.source)
    return row


def _closed(messages: list[Any]) -> list[Any]:
    """``messages`` with a placeholder answer when a user has the last word."""
    last = messages[-1] if messages else None
    is_open = isinstance(last, dict) and last.get("role") in ("user", "human")
    return [*messages, {"role": "assistant", "content": PLACEHOLDER}] if is_open else messages


def _question(conversation: Conversation) -> Question:
    """Everything before the last answer; that answer is the reference."""
    *before, last = conversation.messages
    reference = None if last.text == PLACEHOLDER else last.text
    return Question(messages=tuple(before), reference=reference, source=conversation.source)


def answer_file(
    engine: Engine, source: Path, output: Path, params: SamplingParams, *, batch_size: int = 8
) -> dict[str, Any]:
    """``{"answers": n, "errors": n, "resumed": n}`` after ``output`` is complete.

    Row ``i`` draws with ``params.seed + i``, so that a resumed run equals an uninterrupted one. A row that cannot be
    asked gets ``error`` instead of ``answer``, so that line i answers record i.
    Raises: DataError ``infer.batch-empty`` when there is nothing to ask; ConfigError ``infer.bad-output``; RunError
        ``run.in-use``; what ``read_questions`` raises.
    """
    _require_other_file(source, output)
    questions = list(read_questions(source))
    if not any(isinstance(question, Question) for question in questions):
        rejects = [question.detail for question in questions if isinstance(question, Reject)]
        raise DataError(
            "infer.batch-empty",
            "没有一个能问的问题" + (f": {rejects[0]}" if rejects else ""),
            place=str(source),
            hint='每行写成 {"prompt": "你好"} 或 {"messages": [{"role": "user", "content": "你好"}]}',
        )
    part = output.with_name(output.name + ".part")
    header = {"hantune_batch": 1, "input": _digests(source), "model": _identity(engine), "params": asdict(params)}
    with disk_errors(output):
        output.parent.mkdir(parents=True, exist_ok=True)
    with disk_errors(output), held(part):
        done = _resume(part, header)
        waiting = [number for number in range(len(questions)) if number not in done]
        waiting.sort(key=lambda number: -_size(questions[number]))
        with part.open("ab") as file, console.progress("生成回答", len(questions)) as bar:
            bar.done = len(done)
            for count, row in enumerate(_answers(engine, questions, waiting, params, batch_size), 1):
                file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
                if count % batch_size == 0 or count == len(waiting):
                    file.flush()
                    os.fsync(file.fileno())
                bar.advance(1)
        errors = _finish(part, output)
    return {"answers": len(questions) - errors, "errors": errors, "resumed": len(done)}


def _require_other_file(source: Path, output: Path) -> None:
    """Nothing, if ``output`` can be written without losing the questions.

    Raises: ConfigError ``infer.bad-output``.
    """
    if output.is_dir():
        why = "这是一个文件夹, 要写的是文件"
    elif output.exists() and source.exists() and output.samefile(source):
        why = "它就是 --input: 写上去问题就没有了"
    else:
        return
    raise ConfigError("infer.bad-output", why, place=f"--output {output}", hint="换一个文件名: --output answers.jsonl")


def _size(question: Question | Reject) -> int:
    """About how long a prompt is: what is about equally long is answered together."""
    return 0 if isinstance(question, Reject) else sum(len(message.text) for message in question.messages)


def _answers(
    engine: Engine,
    questions: Sequence[Question | Reject],
    waiting: Sequence[int],
    params: SamplingParams,
    batch_size: int,
) -> Iterator[dict[str, Any]]:
    """The output rows of ``waiting`` as they are ready; a prompt is tokenised when its turn comes."""
    refused: list[dict[str, Any]] = []

    def lanes() -> Iterator[tuple[int, Lane]]:
        for number in waiting:
            question = questions[number]
            if isinstance(question, Reject):
                refused.append(_row(number, question, None))
                continue
            seed = None if params.seed is None else params.seed + number
            try:
                yield number, engine.lane(question.messages, replace(params, seed=seed))
            except RefusedError as error:
                refused.append(_row(number, question, error))

    for number, answer in engine.finish(lanes(), batch_size):
        found = {"answer": answer.text, "finish_reason": answer.finish_reason, "usage": answer.usage}
        yield _row(number, questions[number], None) | found
        while refused:
            yield refused.pop()
    yield from refused


def _row(index: int, question: Question | Reject, refusal: RefusedError | None) -> dict[str, Any]:
    """An output row without its answer, or with what is wrong in its stead."""
    if isinstance(question, Reject):
        return {"index": index, "prompt": None, "answer": None, "error": question.detail, "source": question.source}
    row: dict[str, Any] = {"index": index, "prompt": question.messages[-1].text}
    if len(question.messages) > 1:
        row["messages"] = [{"role": message.role, "content": message.text} for message in question.messages]
    if refusal is not None:
        row |= {"answer": None, "error": str(refusal), "source": question.source}
    if question.reference is not None:
        row["reference"] = question.reference
    return row


def _digests(source: Path) -> list[str]:
    """What the input was."""
    return [inspect(place).sha256 for place in expand(str(source))]


def _identity(engine: Engine) -> dict[str, str | None]:
    """What answered: the same folder may hold other weights tomorrow."""
    base, adapter = Path(engine.name), Path(engine.adapter or "") / WEIGHTS
    return {
        "base": fingerprint(base) if base.is_dir() and engine.name else engine.name,
        "adapter": sha256_file(adapter) if adapter.is_file() else engine.adapter,
        "template": engine.template.text,
        "load": engine.load,
    }


def _resume(part: Path, header: dict[str, Any]) -> set[int]:
    """Which rows ``part`` holds under this header; a torn last line is cut, another run's file begun anew."""
    first = json.dumps(header, ensure_ascii=False, sort_keys=True).encode() + b"\n"
    data = part.read_bytes() if part.exists() else b""
    if data:
        if data.startswith(first):
            whole = data[: data.rfind(b"\n") + 1]
            os.truncate(part, len(whole))
            done = {json.loads(line)["index"] for line in whole.splitlines()[1:]}
            console.say(f"接着上次: 已有 {len(done)} 个回答 ({part})")
            return done
        console.warn(f"{part} 来自另一个输入, 模型或设置, 已从头开始")
    part.write_bytes(first)
    return set()


def _finish(part: Path, output: Path) -> int:
    """How many rows are errors, after ``output`` holds all rows in order: written, made durable, renamed."""
    rows = [json.loads(line) for line in part.read_bytes().splitlines()[1:]]
    rows.sort(key=lambda row: row["index"])
    write_file(output, b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows))
    part.unlink()
    return sum("error" in row for row in rows)
