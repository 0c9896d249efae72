"""Stop a run anywhere: the resumed run ends bit-identical (reliability C1, C3, C4, C5, C14).

Torch and transformers are imported once; every attempt is a fork that trains and is shot with SIGKILL, or asked with
SIGTERM, after a random time, while it prepares, trains, evaluates or saves; or its disk is full from some write on.
Every second step saves, behind the run, so that saves are hit too.
"""

from __future__ import annotations

import errno
import itertools
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
from hantune.errors import HantuneError, MachineError
from hantune.log import read_events
from hantune.paths import RunFolder, sha256_file
from hantune.train import checkpoint as checkpoints

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
            threads=1, save_every_steps=2, learning_rate=1e-3, memory_check=False,
        ),  # fmt: skip
        eval=EvalSection(every_steps=6, max_samples=16, probes=("你好", "谢谢", "再见"), probe_max_tokens=4,
                         probe_share=1),
    )


def attempt(
    config: RunConfig,
    kill_after: float | None,
    *,
    by: signal.Signals = signal.SIGKILL,
    full_from: int | None = None,
) -> bool:
    """Start or resume in a fork; True if it ended by itself, False if it was stopped.

    ``full_from``: from this ``fsync`` on (each file of a checkpoint has one) the disk is full.
    """
    from hantune.log import console
    from hantune.train.run import resume, train

    child = os.fork()
    if child == 0:
        status = 1
        try:
            console.quiet = True
            if full_from is not None:
                fill_disk(full_from)
            run = RunFolder(Path(str(config.train.output_dir)))
            resume(run.root) if run.is_run else train(config)
            status = 0
        except HantuneError as error:
            status = error.exit_code
        finally:
            os._exit(status)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, by)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return False
    stopped = {143} if by == signal.SIGTERM else {MachineError.exit_code} if full_from is not None else set()
    assert os.WEXITSTATUS(status) in {0, *stopped}
    return os.WEXITSTATUS(status) == 0


def fill_disk(full_from: int) -> None:
    """Let every ``fsync`` of this process but the first ones find no room."""
    calls = itertools.count()
    sync = os.fsync

    def fsync(handle: Any) -> None:
        if next(calls) >= full_from:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(handle)

    os.fsync = fsync


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
    # imported before forking
    import peft  # noqa: F401
    import transformers.models.llama.modeling_llama  # noqa: F401

    import hantune.train.run  # noqa: F401

    out = tmp_path_factory.mktemp("reference") / "run"
    start = time.monotonic()
    assert attempt(make_config(tiny_llama_folder, dialogues, out), None)
    return outcome(RunFolder(out)), time.monotonic() - start


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("most", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_kills_leave_no_trace(
    tiny_llama_folder: Path, dialogues: Path, tmp_path: Path, reference: tuple[Any, float], most: int
) -> None:
    expected, seconds = reference
    draw = random.Random(most)
    kills = runs = 0
    while kills < most:
        out = tmp_path / f"run-{runs}"
        config = make_config(tiny_llama_folder, dialogues, out)
        while not attempt(config, draw.uniform(0.05, 1.0) * seconds if kills < most else None):
            kills += 1
        assert outcome(RunFolder(out)) == expected
        assert not list((out / "checkpoints").glob(".tmp-*"))
        runs += 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("each", [2, pytest.param(6, marks=pytest.mark.slow)])
def test_signals_and_full_disks_leave_no_trace(
    tiny_llama_folder: Path, dialogues: Path, tmp_path: Path, reference: tuple[Any, float], each: int
) -> None:
    expected, seconds = reference
    draw = random.Random(3)
    stops = [
        *({"kill_after": draw.uniform(0.05, 1.0) * seconds, "by": signal.SIGTERM} for _ in range(each)),
        *({"kill_after": None, "full_from": draw.randrange(12, 90)} for _ in range(each)),
    ]
    draw.shuffle(stops)
    runs = 0
    while stops:
        out = tmp_path / f"run-{runs}"
        config = make_config(tiny_llama_folder, dialogues, out)
        while not attempt(config, **(stops.pop() if stops else {"kill_after": None})):
            newest = checkpoints.newest_checkpoint(RunFolder(out))
            names = {path.name for path in (out / "checkpoints").glob("step-*")}
            assert newest is None or newest.folder.name == max(names), "nothing torn has a name"
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
@pytest.mark.parametrize("damage", [pytest.param(remove, marks=pytest.mark.slow), flip])
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
