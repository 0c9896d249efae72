"""What each option of adapter and loss costs a training step on a CPU.

    python benchmarks/train/options.py --data LCCC_FILE --tokenizer FOLDER [--preset 110m] [--out FILE]

Whole steps (loss, gradients, update) of the run that a configuration gives, on real dialogues with seeded random
weights, one thread. All options take turns, the same steps each, several rounds; the least CPU time of a round counts,
because other programs can only add. Also told: what autograd keeps for the way back of one micro-batch.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from hantune.config.io import as_overrides, load_config
from hantune.data.prepare import prepare
from hantune.models.init import init_model
from hantune.paths import RunFolder, write_json
from hantune.train.feed import Feed
from hantune.train.parallel import make_accelerator
from hantune.train.ready import get_ready
from hantune.train.setup import Material, open_material
from hantune.train.step import Stepper

OPTIONS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"adapter.use_rslora": True},
    "lora-plus": {"train.lora_plus_ratio": 16},
    "dora": {"adapter.use_dora": True},
    "dropout": {"adapter.dropout": 0.05},
    "last-half": {"adapter.layers_to_transform": "last 6"},
    "last-quarter": {"adapter.layers_to_transform": "last 3"},
    "embeddings": {"adapter.embeddings": "all"},
    "neftune": {"train.neftune_alpha": 5},
    "smoothing": {"train.label_smoothing": 0.1},
    "average": {"train.ema_decay": 0.99},
    "checkpointing": {"train.activation_checkpointing": True},
}


class Contestant:
    """One option's model and what it has cost so far."""

    def __init__(self, name: str, settings: dict[str, Any], material: Material | None, folder: Path) -> None:
        config = load_config(None, as_overrides(settings)).config
        self.material = material or open_material(config, RunFolder(folder / "scratch"))
        ready = get_ready(config, self.material)
        self.name, self.learned = name, ready.count(learned=True)
        self.stepper = Stepper(ready.model, make_accelerator(ready.device, ready.precision), config.train)
        self.stepper.set_learning_rate(config.train.learning_rate)
        self.feed = Feed(self.material.train, ready.plan, config.train, pad_id=self.material.encoder.pad_id)
        self.seconds: list[float] = []
        ready.model.train()

    def round(self, steps: range) -> None:
        """CPU seconds of a token in these steps."""
        batches = [self.feed.micro_batches(step) for step in steps]
        start = time.process_time()
        results = [self.stepper.train(batch, step=step) for step, batch in zip(steps, batches, strict=True)]
        self.seconds.append((time.process_time() - start) / sum(result.tokens for result in results))

    def kept_bytes(self) -> int:
        """What autograd keeps of one step's first micro-batch, each storage once, parameters left out."""
        own = {parameter.data_ptr() for parameter in self.stepper.model.parameters()}
        storages: dict[int, int] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                storages[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            self.stepper.train(self.feed.micro_batches(0)[:1])
        return sum(storages.values())

    def result(self) -> dict[str, Any]:
        return {
            "option": self.name,
            "learned_parameters": self.learned,
            "tokens_per_cpu_second": [round(1 / value, 1) for value in self.seconds],
            "kept_mib": round(self.kept_bytes() / 2**20, 1),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--preset", default="110m")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--options", nargs="*", default=list(OPTIONS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2, help="of 8 dialogues, in each round")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        init_model(folder / "model", preset=asked.preset, tokenizer=asked.tokenizer)
        prepare([str(asked.data)], folder / "data", max_samples=2000)
        common = {
            "model.path": str(folder / "model"), "data.path": str(folder / "data"), "train.device": "cpu",
            "train.threads": 1, "train.precision": asked.precision, "eval.max_samples": 1,
        }  # fmt: skip
        field: list[Contestant] = []
        for name in asked.options:
            material = field[0].material if field else None
            field.append(Contestant(name, common | OPTIONS[name], material, folder))
        for _ in range(asked.rounds + 1):
            for one in field:
                one.round(range(asked.steps))
        for one in field:
            del one.seconds[0]  # the first steps also make what later ones find made
        found = {"precision": asked.precision, "preset": asked.preset, "rows": [one.result() for one in field]}
    for row in found["rows"]:
        print(json.dumps(row, ensure_ascii=False))
    if asked.out:
        write_json(asked.out, found)


if __name__ == "__main__":
    main()
