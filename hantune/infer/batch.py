"""Questions from a file, answers to a file: in order, one JSON object a line, and resumable after a kill.

Finished answers stand in ``OUTPUT.part``, as they end, each behind the number of its row, under a first line that names
input, model and settings. A second run with the same ones makes only what is missing; ``OUTPUT`` appears, in order,
when the last answer is there.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from hantune.data.sources import expand, inspect
from hantune.data.types import Message, Reject
from hantune.errors import ConfigError, DataError, HantuneError
from hantune.infer.engine import Engine
from hantune.infer.lane import Lane
from hantune.infer.questions import Question, read_questions
from hantune.infer.sample import SamplingParams
from hantune.log import Progress, console
from hantune.models.adapter import WEIGHTS
from hantune.models.fingerprint import fingerprint
from hantune.paths import disk_errors, held, sha256_file, write_file

BELLE = ("belle", "alpaca")
"""Formats of BELLE's dev files, whose answers BELLE wrote as ``input``, ``predict`` and ``target``."""


class Form(Protocol):
    """How a file's records are read and how their answers are written; one record in, one line out."""

    @property
    def name(self) -> str:
        """What the form is called in the part file."""

    @property
    def refusals(self) -> tuple[type[Exception], ...]:
        """What ``lanes`` raises where a record cannot be asked."""

    def read(self, path: Path) -> Iterable[Any]:
        """The records, readable or not."""

    def lanes(self, engine: Engine, record: Any, params: SamplingParams) -> Sequence[Lane]:
        """The answers to be made for a record, at least one."""

    def row(self, engine: Engine, number: int, record: Any, lanes: Sequence[Lane]) -> dict[str, Any]:
        """The line of a record that was answered."""

    def refused(self, number: int, record: Any, error: Exception) -> dict[str, Any]:
        """The line of a record that could not be asked."""

    def is_error(self, row: Mapping[str, Any]) -> bool:
        """Whether a line holds no answer."""


@dataclass(frozen=True)
class PlainForm:
    """Any data file; a line holds ``index prompt answer finish_reason usage`` and the answer the file itself gives.

    ``system``: for questions that bring no system message of their own.
    """

    system: str | None = None
    name = "plain"
    refusals = (HantuneError,)

    def read(self, path: Path) -> Iterator[Question | Reject]:
        for question in read_questions(path):
            if self.system and isinstance(question, Question) and question.messages[0].role != "system":
                system = Message(role="system", text=self.system)
                question = replace(question, messages=(system, *question.messages))
            yield question

    def lanes(self, engine: Engine, record: Question | Reject, params: SamplingParams) -> Sequence[Lane]:
        if isinstance(record, Reject):
            raise DataError(record.reason, record.detail, place=record.source)
        return [engine.lane(record.messages, params)]

    def row(self, engine: Engine, number: int, record: Question, lanes: Sequence[Lane]) -> dict[str, Any]:
        answer = lanes[0].completion()
        row = _asked(number, record)
        row |= {"answer": answer.text, "finish_reason": answer.finish_reason, "usage": answer.usage}
        if record.format in BELLE:
            whole = engine.render(record.messages).text.removeprefix(engine.encoder.marks.bos or "")
            row |= {"input": whole, "predict": answer.text, "target": record.reference or ""}
        return row

    def refused(self, number: int, record: Question | Reject, error: Exception) -> dict[str, Any]:
        why = record.detail if isinstance(record, Reject) else str(error)
        return _asked(number, record) | {"answer": None, "error": why, "source": record.source}

    def is_error(self, row: Mapping[str, Any]) -> bool:
        return "error" in row


def _asked(number: int, record: Question | Reject) -> dict[str, Any]:
    """The part of a line that says what was asked."""
    if isinstance(record, Reject):
        return {"index": number, "prompt": None}
    row: dict[str, Any] = {"index": number, "prompt": record.messages[-1].text}
    if len(record.messages) > 1:
        row["messages"] = [{"role": message.role, "content": message.text} for message in record.messages]
    if record.reference is not None:
        row["reference"] = record.reference
    return row


def answer_file(
    opened: Callable[[], Engine],
    source: Path,
    output: Path,
    params: SamplingParams,
    *,
    batch_size: int = 8,
    form: Form | None = None,
) -> dict[str, Any]:
    """``{"answers": n, "errors": n, "resumed": n}`` after ``output`` is complete.

    ``opened`` loads the engine once the output is this process's alone and there is something to ask.
    Row ``i`` draws with ``params.seed + i``, so that a resumed run equals an uninterrupted one. A row that cannot be
    asked gets an error instead of an answer, so that line i answers record i.
    Raises: DataError ``infer.batch-empty`` when there is nothing to ask; ConfigError ``infer.bad-output``; RunError
        ``run.in-use``; what ``form.read`` and ``opened`` raise.
    """
    form = PlainForm() if form is None else form
    _require_other_file(source, output)
    records = list(form.read(source))
    if all(isinstance(record, Reject) for record in records):
        rejects = [record.detail for record in records if isinstance(record, Reject)]
        raise DataError(
            "infer.batch-empty",
            "没有一个能问的问题" + (f": {rejects[0]}" if rejects else ""),
            place=str(source),
            hint='每行写成 {"prompt": "你好"} 或 {"messages": [{"role": "user", "content": "你好"}]}',
        )
    part = output.with_name(output.name + ".part")
    with _alone(part):
        engine = opened()
        settings = {"params": asdict(params), "form": [form.name, getattr(form, "system", None)]}
        header = {"hantune_batch": 2, "input": _digests(source), "model": _identity(engine), **settings}
        with disk_errors(output):
            done = _resume(part, header)
            waiting = [number for number in range(len(records)) if number not in done]
            waiting.sort(key=lambda number: -_size(records[number]))
            with console.progress("生成回答", len(records), done=len(done)) as bar:
                _append(part, _rows(engine, form, records, waiting, params, batch_size), batch_size, bar)
            errors = _finish(part, output, form)
    return {"answers": len(records) - errors, "errors": errors, "resumed": len(done)}


@contextlib.contextmanager
def _alone(part: Path) -> Iterator[None]:
    """Hold ``part``; a process that wrote nothing leaves none behind.

    Raises: RunError ``run.in-use``.
    """
    with disk_errors(part):
        part.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        with disk_errors(part):
            stack.enter_context(held(part))
        try:
            yield
        finally:
            if part.exists() and not part.stat().st_size:
                part.unlink()


def _append(part: Path, rows: Iterator[tuple[int, dict[str, Any], int]], batch_size: int, bar: Progress) -> None:
    """Write lines as they are ready, and make them durable a batch at a time."""
    start, tokens = time.monotonic(), 0
    with part.open("ab") as file:
        for count, (number, row, made) in enumerate(rows, 1):
            file.write(b"%d %s\n" % (number, json.dumps(row, ensure_ascii=False).encode()))
            if count % batch_size == 0:
                file.flush()
                os.fsync(file.fileno())
            tokens += made
            bar.advance(1, f"{tokens / max(time.monotonic() - start, 1e-9):.0f} 词元/秒")
        file.flush()
        os.fsync(file.fileno())


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


def _size(record: Any) -> int:
    """About how long a prompt is: what is about equally long is answered together."""
    if isinstance(record, Question):
        return sum(len(message.text) for message in record.messages)
    return 0 if isinstance(record, Reject) else len(str(record))


def _rows(
    engine: Engine,
    form: Form,
    records: Sequence[Any],
    waiting: Sequence[int],
    params: SamplingParams,
    batch_size: int,
) -> Iterator[tuple[int, dict[str, Any], int]]:
    """(number, line, tokens made) of ``waiting`` as they are ready; a prompt is tokenised when its turn comes."""
    refused: list[tuple[int, dict[str, Any], int]] = []
    asked: dict[int, Sequence[Lane]] = {}
    owners: list[int] = []
    left: dict[int, int] = {}

    def lanes() -> Iterator[tuple[int, Lane]]:
        for number in waiting:
            seed = None if params.seed is None else params.seed + number
            try:
                asked[number] = form.lanes(engine, records[number], replace(params, seed=seed))
            except form.refusals as error:
                refused.append((number, form.refused(number, records[number], error), 0))
                continue
            left[number] = len(asked[number])
            for lane in asked[number]:
                owners.append(number)
                yield len(owners) - 1, lane

    for key, _ in engine.finish(lanes(), batch_size):
        number = owners[key]
        left[number] -= 1
        if not left[number]:
            answers = asked.pop(number)
            yield number, form.row(engine, number, records[number], answers), sum(len(lane.ids) for lane in answers)
        while refused:
            yield refused.pop()
    yield from refused


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
    if data.startswith(first):
        whole = data[: data.rfind(b"\n") + 1]
        os.truncate(part, len(whole))
        done = {number for number, _ in _written(whole)}
        console.say(f"接着上次: 已有 {len(done)} 个回答 ({part})")
        return done
    if not first.startswith(data):
        console.warn(f"{part} 来自另一个输入, 模型或设置, 已从头开始")
    part.write_bytes(first)
    return set()


def _written(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(number, line) of every row of a part file."""
    for line in data.splitlines()[1:]:
        number, _, row = line.partition(b" ")
        yield int(number), row


def _finish(part: Path, output: Path, form: Form) -> int:
    """How many rows are errors, after ``output`` holds all rows in order: written, made durable, renamed."""
    rows = dict(_written(part.read_bytes()))
    write_file(output, b"".join(rows[number] + b"\n" for number in sorted(rows)))
    part.unlink()
    return sum(form.is_error(json.loads(row)) for row in rows.values())
