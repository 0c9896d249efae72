"""``trainer_log.jsonl``: the progress of a run as LLaMA-Factory writes it, for tools that read its folders.

One JSON object a line: ``current_steps total_steps loss lr epoch percentage elapsed_time remaining_time throughput
total_tokens`` for a step, ``eval_loss`` instead of ``loss`` and ``lr`` for an evaluation. Times are ``H:MM:SS`` texts;
throughput is tokens a second since the start, without padding.
Source: LLaMA-Factory 0.9.5, ``LogCallback.on_log`` in train/callbacks.py.
"""

from __future__ import annotations

import datetime
from typing import Any

from hantune.log import JsonLines

FILE = "trainer_log.jsonl"


class TrainerLog(JsonLines):
    """The lines of one run."""

    def write_progress(
        self, step: int, total_steps: int, *, epoch: float, elapsed: float, left: float, tokens: int, **values: float
    ) -> None:
        """A line for finished ``step``; ``values``: ``loss`` and ``lr``, or ``eval_loss``. Times are in seconds."""
        line: dict[str, Any] = {
            "current_steps": step,
            "total_steps": total_steps,
            **values,
            "epoch": round(epoch, 4),
            "percentage": round(100 * step / total_steps, 2),
            "elapsed_time": _clock(elapsed),
            "remaining_time": _clock(left),
        }
        if tokens:
            line |= {"throughput": round(tokens / elapsed, 2), "total_tokens": tokens}
        self.append(line)


def _clock(seconds: float) -> str:
    return str(datetime.timedelta(seconds=int(seconds)))
