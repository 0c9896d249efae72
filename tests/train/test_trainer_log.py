"""``trainer_log.jsonl`` is what readers of LLaMA-Factory's folders expect."""

from __future__ import annotations

import json
from pathlib import Path

from hantune.train.trainer_log import TrainerLog


def test_lines_have_the_keys_and_order_of_llamafactory(tmp_path: Path) -> None:
    log = TrainerLog(tmp_path / "trainer_log.jsonl")
    log.write_progress(0, 40, epoch=0.0, elapsed=1.5, left=90.0, tokens=0, eval_loss=9.5)
    end = log.offset()
    log.write_progress(10, 40, epoch=0.25, elapsed=3725.9, left=11177.0, tokens=5000, loss=2.5, lr=1e-4)
    log.close()
    first, second = (json.loads(line) for line in (tmp_path / "trainer_log.jsonl").read_bytes().splitlines())
    assert first == {
        "current_steps": 0, "total_steps": 40, "eval_loss": 9.5, "epoch": 0.0, "percentage": 0.0,
        "elapsed_time": "0:00:01", "remaining_time": "0:01:30",
    }  # fmt: skip
    assert list(second.items()) == [
        ("current_steps", 10), ("total_steps", 40), ("loss", 2.5), ("lr", 1e-4), ("epoch", 0.25), ("percentage", 25.0),
        ("elapsed_time", "1:02:05"), ("remaining_time", "3:06:17"), ("throughput", 1.34), ("total_tokens", 5000),
    ]  # fmt: skip
    again = TrainerLog(tmp_path / "trainer_log.jsonl")
    again.truncate(end)
    again.close()
    assert len((tmp_path / "trainer_log.jsonl").read_bytes().splitlines()) == 1
