"""What is looked at while a run trains: the held-out loss. (The answers to the fixed questions: ``probe.py``.)"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from hantune.data.batch import evaluation_batches
from hantune.evaluate.perplexity import held_out
from hantune.log import EventLog, console
from hantune.train.setup import Material
from hantune.train.trackers import Trackers

if TYPE_CHECKING:
    from accelerate import Accelerator


class Watch:
    """The held-out loss at a step; writes its event."""

    def __init__(
        self, material: Material, model: nn.Module, accelerator: Accelerator, events: EventLog, trackers: Trackers
    ) -> None:
        self._material = material
        self._model = model
        self._accelerator = accelerator
        self._events = events
        self._trackers = trackers

    def __call__(self, step: int) -> float | None:
        """Nats per learned token; None without held-out data."""
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
