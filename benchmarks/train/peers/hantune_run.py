"""One run in hantune: the recipe behind ``hantune train``, from a configuration to the adapter.

    python hantune_run.py TASK.json          (the tree's folder in PYTHONPATH)

Nothing of the engine is touched: a step ends when its line is in the event log.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from meter import Meter, read_task


def overrides(task: dict[str, Any]) -> list[str]:
    """The configuration: the task's first, then whatever the command line of the benchmark sets."""
    row = task["settings"]
    found = {
        "model.path": task["model"],
        "data.path": str(Path(task["data"]) / "messages.json"),
        "data.val_share": 0.0,
        "data.max_tokens": task["max_tokens"],
        "template.name": "llama2",
        "adapter.rank": 8,
        "adapter.alpha": 16,
        "train.output_dir": task["scratch"],
        "train.seed": task["seed"],
        "train.max_steps": task["steps"],
        "train.epochs": 1_000_000,
        "train.batch_size": task["dialogues_per_step"],
        "train.learning_rate": task["learning_rate"],
        "train.schedule": task["schedule"],
        "train.warmup_share": 0.0,
        "train.precision": row["precision"],
        "train.device": "cpu",
        "train.threads": task["threads"],
        "train.save_every_steps": 1_000_000,
        "eval.every_steps": 1_000_000,
        "eval.probes": "[]",
    }
    return [f"{key}={value}" for key, value in found.items()] + row.get("set", [])


def time_steps(meter: Meter) -> None:
    """Have every step event of a run end a step of the meter."""
    from hantune.log import EventLog

    write = EventLog.write

    def timed_write(log: Any, kind: str, **values: Any) -> None:
        write(log, kind, **values)
        if kind == "start":
            meter.start()
        if kind == "step":
            meter.add(**{name: values[name] for name in ("tokens", "supervised", "loss")})
            meter.step()

    EventLog.write = timed_write  # type: ignore[method-assign]


def main() -> None:
    task = read_task()
    from hantune.env import set_library_defaults

    set_library_defaults()
    from hantune.config.io import load_config
    from hantune.train.run import train

    meter = Meter()
    time_steps(meter)
    result = train(load_config(None, overrides(task)).config)
    meter.notes["plan"] = json.loads((result.run.root / "plan.json").read_bytes())
    meter.notes["adapter"] = str(result.output)
    meter.write(task)


if __name__ == "__main__":
    main()
