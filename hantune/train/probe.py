"""The fixed questions, asked at a step: answers to ``samples.jsonl``, figures to ``events.jsonl`` and the console.

Greedy answers draw no random number and change no weight, so a run that is asked ends with the same bits as one that
is not.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from hantune.evaluate.memorised import LearnedText, Repeated
from hantune.evaluate.probes import Figures, Probe, figures_of
from hantune.evaluate.signs import bad_signs
from hantune.infer.engine import Completion, Engine
from hantune.infer.sample import SamplingParams
from hantune.log import EventLog, console, read_events
from hantune.paths import RunFolder
from hantune.train.plan import Plan
from hantune.train.setup import Material
from hantune.train.trackers import Trackers

MOST_AT_ONCE = 32
"""Answers in progress at a time."""
CHINESE_DATA = 0.5
"""From this share of Han in what is learned on, answers are expected to be Chinese."""


class Prober:
    """Asks the questions of a run at a step."""

    def __init__(
        self,
        probes: Sequence[Probe],
        plan: Plan,
        material: Material,
        model: Any,
        run: RunFolder,
        events: EventLog,
        answers: EventLog,
        trackers: Trackers,
    ) -> None:
        self._probes = probes
        self._plan = plan
        self._engine = Engine(model, material.encoder, material.template)
        self._learned = LearnedText(material.train, material.encoder)
        self._run = run
        self._events = events
        self._answers = answers
        self._trackers = trackers

    def __call__(self, step: int) -> float | None:
        """The probe score (0 to 100) at ``step``; None where nothing is asked."""
        if not self._probes:
            return None
        start = time.monotonic()
        plan = self._plan.probes
        completions = self._engine.answer_many(
            [probe.messages for probe in self._probes], SamplingParams(max_tokens=plan.max_tokens), MOST_AT_ONCE
        )
        repeated = self._learned.repeated([completion.ids for completion in completions])
        figures = figures_of(
            self._probes,
            completions,
            repeated,
            expects_chinese=plan.data_chinese >= CHINESE_DATA,
            judges_stops=plan.judges_stops,
        )
        self._write_answers(step, completions, repeated)
        seconds = round(time.monotonic() - start, 3)
        self._events.write("probe_metrics", step=step, **figures.as_dict(), seconds=seconds)
        shares = ("chinese_share", "stop_rate", "repetition", "memorised", "score")
        self._trackers.log({f"probe_{name}": getattr(figures, name) for name in shares}, step)
        console.say(f"第 {step} 步  试答: {in_words(figures)}")
        self._warn(step, figures)
        return figures.score

    def _write_answers(
        self, step: int, completions: Sequence[Completion], repeated: Sequence[Repeated | None]
    ) -> None:
        for probe, completion, found in zip(self._probes, completions, repeated, strict=True):
            self._answers.write(
                "probe",
                step=step,
                prompt=probe.prompt,
                answer=completion.text,
                finish_reason=completion.finish_reason,
                reference=probe.reference,
                source=probe.source,
                repeats=None if found is None else {"source": found.source, "text": found.text},
            )

    def _warn(self, step: int, figures: Figures) -> None:
        """Say each bad sign once a run; what was said before a resume stands in the event log."""
        signs = bad_signs(
            figures,
            progress=step / self._plan.total_steps,
            data_chinese=self._plan.probes.data_chinese,
            judges_stops=self._plan.probes.judges_stops,
        )
        said = {event.get("code") for event in read_events(self._run.events, "warning")} if signs else set()
        for sign in signs:
            if sign.code not in said:
                console.warn(f"第 {step} 步: {sign.text}")
                self._events.write("warning", code=sign.code, text=sign.text, step=step)


def in_words(figures: Figures) -> str:
    """The figures in one line: ``中文 98%, 正常收尾 6/8, 重复 0/8, 背原文 1/8, 长度 0.9 倍``."""
    parts = [
        f"中文 {figures.chinese_share:.0%}",
        f"正常收尾 {figures.times(figures.stop_rate)}",
        f"重复 {figures.times(figures.repetition)}",
        f"背原文 {figures.times(figures.memorised)}",
    ]
    if figures.length_ratio is not None:
        parts.append(f"长度是参考的 {figures.length_ratio:.1f} 倍")
    return ", ".join(parts)
