"""Kill a run anywhere: the resumed run ends bit-identical (reliability C1, C5, C14).

Torch and transformers are imported once; every attempt is a fork that trains and is shot with SIGKILL after a random
time, while it prepares, trains, evaluates or saves. Every second step saves, so that saves are hit too.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hantune.assets import dialogues_path
from hantune.config.schema import AdapterSection, DataSection, EvalSection, ModelSection, RunConfig, TrainSection
from hantune.log import read_events
from hantune.paths import RunFolder, sha256_file
from hantune.train import checkpoint as checkpoints

NUM_KILLS = 20
NUM_DIALOGUES = 300


@pytest.fixture(scope="module")
def dialogues(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 toy LCCC dialogues where the shared files are, else 300 of the package's own; prepared."""
    from hantune.data.prepare import prepare

    toy = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "lccc" / "lccc_toy_split.json"
    out = tmp_path_factory.mktemp("data") / "prepared"
    prepare([str(toy if toy.is_file() else dialogues_path())], out, max_samples=NUM_DIALOGUES, seed=1)
    return out


def make_config(model: Path, data: Path, out: Path) -> RunConfig:
    """LoRA with dropout, two accumulated micro-batches, a save every second step."""
    return RunConfig(
        model=ModelSection(path=str(model)),
        data=DataSection(path=str(data), max_tokens=96),
        adapter=AdapterSection(rank=4, dropout=0.1),
        train=TrainSection(
            output_dir=str(out), epochs=1, batch_size=8, accumulation_steps=2, precision="float32", device="cpu",
            threads=1, save_every_steps=2, learning_rate=1e-3,
        ),  # fmt: skip
        eval=EvalSection(every_steps=6, max_samples=16, probes=("你好", "谢谢", "再见"), probe_max_tokens=4,
                         probe_share=1),
    )


def attempt(config: RunConfig, kill_after: float | None) -> bool:
    """Start or resume in a fork; True if it ended by itself, False if it was shot."""
    from hantune.log import console
    from hantune.train.run import resume, train

    child = os.fork()
    if child == 0:
        status = 1
        try:
            console.quiet = True
            run = RunFolder(Path(str(config.train.output_dir)))
            resume(run.root) if run.is_run else train(config)
            status = 0
        finally:
            os._exit(status)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return False
    assert os.WEXITSTATUS(status) == 0
    return True


def outcome(run: RunFolder) -> tuple[str, list[tuple[Any, ...]], list[Any], list[Any]]:
    """What must be equal: the adapter's bytes, every step's figures, every evaluation, every answer and its figures."""
    steps = [(e["step"], e["loss"], e["grad_norm"], e["learning_rate"]) for e in read_events(run.events, "step")]
    evals = [(e["step"], e["loss"]) for e in read_events(run.events, "eval")]
    probes = [*read_events(run.samples), *read_events(run.events, "probe_metrics"), *read_events(run.events, "warning")]
    timeless = [{**event, "time": 0, "seconds": 0} for event in probes]
    return sha256_file(run.adapter / "adapter_model.safetensors"), steps, evals, timeless


@pytest.fixture(scope="module")
def reference(tiny_llama_folder: Path, dialogues: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, float]:
    """The uninterrupted run's outcome and its seconds."""
    import hantune.train.run  # noqa: F401  (imported before forking)

    out = tmp_path_factory.mktemp("reference") / "run"
    start = time.monotonic()
    assert attempt(make_config(tiny_llama_folder, dialogues, out), None)
    return outcome(RunFolder(out)), time.monotonic() - start


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_twenty_kills_leave_no_trace(
    tiny_llama_folder: Path, dialogues: Path, tmp_path: Path, reference: tuple[Any, float]
) -> None:
    expected, seconds = reference
    draw = random.Random(7)
    kills = runs = 0
    while kills < NUM_KILLS:
        out = tmp_path / f"run-{runs}"
        config = make_config(tiny_llama_folder, dialogues, out)
        while not attempt(config, draw.uniform(0.05, 1.0) * seconds if kills < NUM_KILLS else None):
            kills += 1
        assert outcome(RunFolder(out)) == expected
        assert not list((out / "checkpoints").glob(".tmp-*"))
        runs += 1


def remove(path: Path) -> None:
    path.unlink()


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("damage", [remove, flip])
def test_a_damaged_newest_checkpoint_costs_only_its_steps(
    tiny_llama_folder: Path,
    dialogues: Path,
    tmp_path: Path,
    reference: tuple[Any, float],
    damage: Callable[[Path], None],
) -> None:
    out = tmp_path / "run"
    config = make_config(tiny_llama_folder, dialogues, out)
    assert attempt(config, None)
    run = RunFolder(out)
    newest = checkpoints.newest_checkpoint(run)
    assert newest is not None
    damage(newest.folder / "weights.safetensors")
    shutil.rmtree(run.adapter)
    assert attempt(config, None)
    assert outcome(run) == reference[0]
