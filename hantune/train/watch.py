"""What is looked at while a run trains: the held-out loss, and the answers to a few fixed questions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from hantune.config.schema import RunConfig
from hantune.data.batch import evaluation_batches
from hantune.data.types import Message
from hantune.evaluate.perplexity import held_out
from hantune.infer.engine import Engine
from hantune.infer.sample import SamplingParams
from hantune.log import EventLog, console
from hantune.train.setup import Material
from hantune.train.trackers import Trackers

if TYPE_CHECKING:
    from accelerate import Accelerator


class Watch:
    """Held-out loss and answers to the fixed questions, at a step; writes both logs."""

    def __init__(
        self,
        config: RunConfig,
        material: Material,
        model: nn.Module,
        accelerator: Accelerator,
        events: EventLog,
        answers: EventLog,
        trackers: Trackers,
    ) -> None:
        self._trackers = trackers
        self._section = config.eval
        self._material = material
        self._model = model
        self._accelerator = accelerator
        self._events = events
        self._answers = answers

    def __call__(self, step: int) -> float | None:
        self._ask(step)
        return self._measure(step)

    def _measure(self, step: int) -> float | None:
        if len(self._material.val) == 0:
            return None
        with self._accelerator.autocast():
            found = held_out(self._model, evaluation_batches(self._material.val, pad_id=self._material.encoder.pad_id))
        self._events.write(
            "eval",
            step=step,
            loss=found.loss,
            perplexity=found.perplexity,
            bits_per_character=found.bits_per_character,
        )
        self._trackers.log({"held_out_loss": found.loss, "bits_per_character": found.bits_per_character}, step)
        console.say(f"第 {step} 步  验证损失 {found.loss:.3f}  困惑度 {found.perplexity:.1f}")
        return float(found.loss)

    def _ask(self, step: int) -> None:
        engine = Engine(self._model, self._material.encoder, self._material.template)
        params = SamplingParams(max_tokens=self._section.probe_max_tokens)
        questions = [[Message(role="user", text=prompt)] for prompt in self._section.probes]
        completions = engine.answer_many(questions, params) if questions else []
        for prompt, completion in zip(self._section.probes, completions, strict=True):
            self._answers.write(
                "probe",
                step=step,
                prompt=prompt,
                answer=completion.text,
                finish_reason=completion.finish_reason,
            )
