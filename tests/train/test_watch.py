"""The held-out loss while a run trains."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hantune.data.prepare import prepare
from hantune.log import EventLog, read_events
from hantune.paths import RunFolder
from hantune.train.parallel import make_accelerator
from hantune.train.precision import choose_precision
from hantune.train.setup import open_material
from hantune.train.watch import Watch
from tests.runs import small_config, write_chats

CPU = torch.device("cpu")


class Heard:
    """A tracker that notes."""

    def __init__(self) -> None:
        self.values: list[tuple[dict[str, float], int]] = []

    def log(self, values: dict[str, float], step: int) -> None:
        self.values.append((values, step))


@pytest.fixture
def watch_on(
    tiny_llama_folder: Path, tiny_llama: Callable[..., Any], sp_tokenizer: Any, tmp_path: Path
) -> Callable[..., tuple[Watch, Any, RunFolder, Heard]]:
    """``watch_on(data)``: a watch, its model, its run folder, and what its trackers heard."""

    def make(data: Path) -> tuple[Watch, Any, RunFolder, Heard]:
        run = RunFolder(tmp_path / "run")
        run.root.mkdir()
        config = small_config(tiny_llama_folder, data, run.root)
        model, heard = tiny_llama(sp_tokenizer), Heard()
        accelerator = make_accelerator(CPU, choose_precision("float32", CPU, is_adapter=True, num_parameters=1))
        events = EventLog(run.events)
        return Watch(open_material(config, run), model, accelerator, events, heard), model, run, heard  # type: ignore[arg-type]

    return make


def test_the_loss_is_written_and_nothing_else_moves(watch_on: Any, prepared: Path) -> None:
    watch, model, run, heard = watch_on(prepared)
    model.train()
    state = torch.get_rng_state()
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    loss = watch(5)
    assert torch.equal(torch.get_rng_state(), state), "evaluating draws nothing: it may be more or less often"
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    (event,) = read_events(run.events, "eval")
    assert (event["step"], event["loss"]) == (5, loss)
    assert set(event) == {"event", "time", "step", "loss", "perplexity", "bits_per_character"}
    ((values, step),) = heard.values
    assert (values["held_out_loss"], step) == (loss, 5)
    assert watch(5) == loss


def test_without_held_out_data_there_is_no_loss(watch_on: Any, tmp_path: Path) -> None:
    prepare([str(write_chats(tmp_path / "chats.jsonl", 4))], tmp_path / "data", val_share=0)
    watch, _, run, heard = watch_on(tmp_path / "data")
    assert watch(0) is None
    assert (read_events(run.events), heard.values) == ([], [])
