"""Held-out bits per character of adapters, whoever trained them, by hantune's evaluation in float32.

    python held_out.py TASK.json          with {"model", "data", "max_tokens", "adapters": {name: folder}, "threads"}

The base without an adapter is there too, as ``base``.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from meter import read_task


def main() -> None:
    task = read_task()
    import torch

    from hantune.data.prepare import prepare
    from hantune.data.prepared import open_prepared
    from hantune.data.templates import get_template
    from hantune.evaluate.report import held_out_loss
    from hantune.infer.engine import open_engine

    torch.set_num_threads(task["threads"])
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        prepare([str(Path(task["data"]) / "messages.json")], Path(folder) / "prepared", val_share=0.0)
        prepared = open_prepared(Path(folder) / "prepared")
        for name, adapter in {"base": None, **task["adapters"]}.items():
            engine = open_engine(task["model"], adapter=adapter, device="cpu", dtype=torch.float32)
            engine.template = get_template("llama2")  # TRL's adapters bring its own writing of the same
            measured = held_out_loss(engine, prepared, "train", max_samples=None, max_tokens=task["max_tokens"])
            found[name] = measured.as_dict()
    Path(task["result"]).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
