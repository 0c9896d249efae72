"""What a run folder tells, read once and leniently: a run that was killed early has fewer files, never an error.

Whatever is missing comes back empty; whatever cannot be read is named in ``RunData.broken`` and left out.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from hantune.errors import RunError
from hantune.log import read_events
from hantune.paths import RunFolder, latest_run

Record = dict[str, Any]


class Change(NamedTuple):
    """One number before and after, with the names of the two moments."""

    before: float | None
    after: float | None
    before_label: str = "训练前"
    after_label: str = "训练后"


class Answers(NamedTuple):
    """One question, what the data answers, and what the model answered before and after (None: not asked)."""

    prompt: str
    reference: str
    before: str | None
    after: str | None

    @property
    def is_pair(self) -> bool:
        return self.before is not None and self.after is not None

    @property
    def changed(self) -> bool:
        return self.is_pair and self.before != self.after


class Probe(NamedTuple):
    """A fixed question and its answers during training, as (step, answer, what to know about it).

    ``reference``: what the data answers, for a question from held-out dialogues.
    """

    prompt: str
    answers: tuple[tuple[int, str, str], ...]
    reference: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunData:
    """The files of one run as plain values."""

    name: str
    config: Record = field(default_factory=dict)
    config_text: str = ""
    environment: Record = field(default_factory=dict)
    plan: Record = field(default_factory=dict)
    manifest: Record = field(default_factory=dict)
    adapter: Record = field(default_factory=dict)
    events: tuple[Record, ...] = ()
    probes: tuple[Probe, ...] = ()
    evaluation: Record = field(default_factory=dict)
    mask: tuple[tuple[str, bool], ...] = ()
    broken: tuple[str, ...] = ()

    def of_kind(self, kind: str) -> list[Record]:
        """The events of one kind, in order; of a step that a resumed run did again, the last counts."""
        chosen = [event for event in self.events if event.get("event") == kind]
        if kind not in ("step", "eval", "probe_metrics"):
            return chosen
        by_step = {int(step): event for event in chosen if (step := number(event.get("step"))) is not None}
        return [by_step[step] for step in sorted(by_step)]

    def curve(self, kind: str, key: str) -> list[tuple[int, float]]:
        """(step, value) of the events of one kind that hold a finite ``key``."""
        values = [(int(event["step"]), number(event.get(key))) for event in self.of_kind(kind)]
        return [(step, value) for step, value in values if value is not None]

    def setting(self, dotted: str) -> Any:
        """A value of config.yaml (``train.seed``), or None."""
        return inside(self.config, dotted)

    @property
    def end(self) -> Record:
        """The event the run ended with; empty when it was killed."""
        ends = self.of_kind("end")
        return ends[-1] if ends else {}

    @property
    def last_step(self) -> int:
        """The last step that was done."""
        steps = self.of_kind("step")
        return int(number(self.end.get("step")) or (steps[-1]["step"] if steps else 0))

    @property
    def planned_steps(self) -> int | None:
        """How many steps the plan wanted, if there is a plan."""
        steps = number(self.plan.get("total_steps"))
        return None if steps is None else int(steps)

    @property
    def num_samples(self) -> int | None:
        """How many conversations were trained on: as planned, else as prepared."""
        planned = number(self.plan.get("num_samples"))
        known = number(self.manifest.get("train")) if planned is None else planned
        return None if known is None else int(known)

    @property
    def has_held_out(self) -> bool:
        """Whether any conversation was held out (as far as is known)."""
        return number(self.manifest.get("val")) != 0

    @property
    def takes_best(self) -> bool:
        """Whether the result is the best step, not the last."""
        return bool(self.setting("train.final") == "best")

    @property
    def stopped_early(self) -> bool:
        """Whether the run ended itself because the held-out loss no longer fell."""
        return bool(self.end.get("reason") == "early-stop")

    @property
    def kept_step(self) -> int | None:
        """The step whose weights are the result, as the run said at its end."""
        kept = number(self.end.get("kept"))
        return None if kept is None else int(kept)

    @property
    def is_finished(self) -> bool:
        """Whether the run said goodbye after its last planned step, or earlier because it had learned enough."""
        return bool(self.end) and (self.stopped_early or self.last_step >= (self.planned_steps or 0))

    def held_out(self, key: str = "loss") -> Change:
        """A held-out number (``loss``, ``perplexity``, ``bits_per_character``) before and after.

        From evaluation.json; where that has no two sides, from the first and last evaluation during training.
        """
        before = number(inside(self.evaluation, f"before.held_out.{key}"))
        after = number(inside(self.evaluation, f"after.held_out.{key}"))
        if before is not None and after is not None:
            return Change(before, after)
        points = self.curve("eval", key)
        if len(points) < 2:
            return Change(before, after)
        kept = self.last_step if self.kept_step is None else self.kept_step
        first, before = points[0]
        last, after = next((point for point in points if point[0] == kept), points[-1])
        is_result = self.is_finished and last == kept
        return Change(
            before, after, "训练前" if first == 0 else f"第 {first} 步", "训练后" if is_result else f"第 {last} 步"
        )

    def metric(self, key: str) -> Change:
        """A number of evaluation.json's ``metrics`` before and after."""
        sides = [inside(self.evaluation, f"{side}.metrics") for side in ("before", "after")]
        before, after = (number(side.get(key)) if isinstance(side, dict) else None for side in sides)
        return Change(before, after)

    def metric_names(self) -> list[str]:
        """Every name in ``metrics`` of either side, sorted."""
        sides = [inside(self.evaluation, f"{side}.metrics") for side in ("before", "after")]
        return sorted({str(key) for side in sides if isinstance(side, dict) for key in side})

    def answers(self) -> list[Answers]:
        """The questions of evaluation.json with both answers, in the order they were asked."""
        before, after = (_asked(inside(self.evaluation, f"{side}.answers")) for side in ("before", "after"))
        return [
            Answers(
                prompt=spoken(key[0]),
                reference=spoken((after.get(key) or before[key]).get("reference")),
                before=spoken(before[key].get("answer")) if key in before else None,
                after=spoken(after[key].get("answer")) if key in after else None,
            )
            for key in dict.fromkeys([*after, *before])
        ]

    def seconds(self) -> float | None:
        """How long the training took: as the run said at its end, else the sum over its steps."""
        told = number(self.end.get("seconds"))
        return told if told is not None else _total(self.of_kind("step"), "seconds")

    def tokens_per_second(self) -> float | None:
        """Tokens (without padding) per second, as the run said at its end, else from its steps."""
        told = number(self.end.get("tokens_per_second"))
        if told is not None:
            return told
        tokens, seconds = (_total(self.of_kind("step"), key) for key in ("tokens", "seconds"))
        return tokens / seconds if tokens and seconds else None


def read_run(run: RunFolder) -> RunData:
    """Everything the report and the model card need from ``run``.

    Raises: RunError ``report.no-run`` when the folder holds neither config.yaml nor events.jsonl.
    """
    if not (run.config.is_file() or run.events.is_file()):
        raise _no_run(run)
    broken: list[str] = []
    config_text, config = _read_config(run.config, broken)
    return RunData(
        name=_shown_path(run.root),
        config=config,
        config_text=config_text,
        environment=_read_object(run.env, broken),
        plan=_read_object(run.plan, broken),
        manifest=_read_manifest(run, config, broken),
        adapter=_read_object(run.adapter / "hantune.json", broken),
        events=tuple(event for event in read_events(run.events) if isinstance(event, dict)),
        probes=_probes(read_events(run.samples)),
        evaluation=_read_object(run.evaluation, broken),
        mask=_read_mask(run.root / "mask_sample.json", broken),
        broken=tuple(broken),
    )


def _no_run(run: RunFolder) -> RunError:
    """The refusal, with the folder that was probably meant."""
    meant = next((parent for parent in run.root.resolve().parents if RunFolder(parent).is_run), None)
    latest = latest_run()
    nearest = meant or (latest.root if latest else None)
    hint = f"hantune report {_shown_path(nearest)}" if nearest else "先训练一次, 例如: hantune demo"
    what = "没有 config.yaml, 也没有 events.jsonl" if run.root.is_dir() else "没有这个文件夹"
    return RunError("report.no-run", f"这里不是一次运行的文件夹: {what}", place=str(run.root), hint=hint)


def _shown_path(path: Path) -> str:
    """A path as commands may use it: from the working folder, else only its name (no report tells a home folder)."""
    whole = path.resolve()
    return whole.relative_to(Path.cwd()).as_posix() if whole.is_relative_to(Path.cwd()) else whole.name


def _read_config(path: Path, broken: list[str]) -> tuple[str, Record]:
    """config.yaml as text and as values; a key that this version no longer knows is no reason to refuse a report."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    if not path.is_file():
        return "", {}
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        value = YAML(typ="safe", pure=True).load(text)
    except (YAMLError, ValueError):
        broken.append(path.name)
        return text, {}
    return text, value if isinstance(value, dict) else {}


def _read_object(path: Path, broken: list[str]) -> Record:
    """A JSON file that holds an object; empty when it is missing or cannot be read."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, OSError):
        value = None
    if isinstance(value, dict):
        return value
    broken.append(path.name)
    return {}


def _read_manifest(run: RunFolder, config: Record, broken: list[str]) -> Record:
    """manifest.json of the prepared data: the run's own folder, else the one config.yaml names."""
    named = inside(config, "data.path")
    folders = [run.prepared, *([Path(named)] if isinstance(named, str) and named else [])]
    found = next((folder / "manifest.json" for folder in folders if (folder / "manifest.json").is_file()), None)
    return _read_object(found, broken) if found else {}


def _read_mask(path: Path, broken: list[str]) -> tuple[tuple[str, bool], ...]:
    """The sample as (text of a token, whether it is learned)."""
    tokens = _read_object(path, broken).get("tokens")
    if not isinstance(tokens, list):
        return ()
    return tuple((str(token.get("text", "")), bool(token.get("learn"))) for token in tokens if isinstance(token, dict))


def _probes(lines: Iterable[Any]) -> tuple[Probe, ...]:
    """samples.jsonl by question; a step that was done again after a resume replaces the first try."""
    found: dict[str, dict[int, tuple[str, str]]] = {}
    references: dict[str, str] = {}
    for line in lines:
        step = number(line.get("step")) if isinstance(line, dict) else None
        if step is not None:
            prompt = spoken(line.get("prompt"))
            found.setdefault(prompt, {})[int(step)] = (spoken(line.get("answer")), _remark(line))
            references[prompt] = spoken(line.get("reference"))
    return tuple(
        Probe(prompt, tuple((step, *answers[step]) for step in sorted(answers)), references[prompt])
        for prompt, answers in found.items()
    )


def _remark(line: Record) -> str:
    """What a reader should know about an answer: that it was cut off, that it is a training row."""
    remarks = ["到长度上限"] if line.get("finish_reason") == "length" else []
    source = inside(line, "repeats.source")
    return ", ".join(remarks + ([f"和训练数据 {source} 一样"] if source else []))


def _asked(rows: Any) -> dict[tuple[str, int], Record]:
    """Rows by (question, how many times it was asked before), so that both sides meet even in another order."""
    found: dict[tuple[str, int], Record] = {}
    times: Counter[str] = Counter()
    for row in rows if isinstance(rows, list) else ():
        if isinstance(row, dict):
            prompt = spoken(row.get("prompt"))
            found[prompt, times[prompt]] = row
            times[prompt] += 1
    return found


def _total(steps: Sequence[Record], key: str) -> float | None:
    """The sum of ``key`` over ``steps``; None when no step has it."""
    values = [value for step in steps if (value := number(step.get(key))) is not None]
    return sum(values) if values else None


def inside(value: Any, dotted: str) -> Any:
    """``inside({"a": {"b": 1}}, "a.b")`` is 1; None where the way ends."""
    for key in dotted.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def number(value: Any) -> float | None:
    """``value`` as a finite number, or None (bool, text, NaN and infinity are none)."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return value if math.isfinite(value) else None
    except OverflowError:
        return None


def spoken(value: Any) -> str:
    """A prompt or an answer as text; a list of messages becomes one line a message."""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, list):
        return "\n".join(_message(item) for item in value)
    return "" if value is None else json.dumps(value, ensure_ascii=False)


def _message(item: Any) -> str:
    """One message of a prompt: ``用户: 你好``."""
    if not isinstance(item, dict):
        return spoken(item)
    role = str(item.get("role", ""))
    return f"{ {'user': '用户', 'assistant': '助手', 'system': '系统'}.get(role, role) }: {spoken(item.get('content'))}"
