"""The arithmetic and the settings behind the training benchmark (benchmarks/train): no tool is run here."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks" / "train"
FACTS: dict[str, Any] = {
    "name": "lccc", "dialogues": 100, "tokens": 10_000, "supervised": 4_000, "longest": 60, "length": {"p50": 30},
    "max_tokens": 512, "dialogues_per_step": 16, "row_tokens": 504, "rows_per_step": 2,
    "weights": {"layers": 90, "head": 25},
}  # fmt: skip


class Modules:
    """The benchmark's modules by name; they import one another as scripts of one folder do."""

    def __getattr__(self, name: str) -> ModuleType:
        return importlib.import_module(name)


@pytest.fixture(scope="module")
def bench() -> Iterator[Any]:
    before = set(sys.modules)
    sys.path[:0] = [str(FOLDER), str(FOLDER / "peers")]
    yield Modules()
    del sys.path[:2]
    for name in set(sys.modules) - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(FOLDER)):
            del sys.modules[name]


def result(losses: list[float], **more: Any) -> dict[str, Any]:
    """What a runner writes: a slow first step, then steps of 100 tokens in two seconds of wall and three of work."""
    step = {"tokens": 100, "supervised": 40, "computed": 125, "wall": 2.0, "cpu": 3.0}
    steps = [{**step, "loss": loss} for loss in losses]
    steps[0] |= {"wall": 50.0, "cpu": 50.0}
    return {"steps": steps, "peak_mib": 700, "start_seconds": 1.0, **more}


def row(bench: Any, tool: str, tokens_per_second: float, **more: Any) -> dict[str, Any]:
    figures = bench.figures.run_figures(result([3.0, 2.0, 1.0]), 1, FACTS)
    runs = [{**figures, "tokens_per_second": tokens_per_second}]
    whole = bench.figures.row_figures(runs, floor=100.0, prepacked=50.0)
    return {"tool": tool, "what": "x", "is_default": False, **whole, **more}


def test_the_warm_up_does_not_count_and_an_epoch_is_extrapolated(bench: Any) -> None:
    found = bench.figures.run_figures(result([3.0, 2.0, 1.0]), 1, FACTS)
    assert found["steps"] == 2
    assert found["tokens_per_second"] == 50
    assert found["supervised_per_second"] == 20
    assert found["useful_share"] == 0.8
    assert found["cpu_seconds_per_epoch"] == 10_000 * 3 / 100


def test_the_floor_counts_the_head_only_where_something_is_learned(bench: Any) -> None:
    assert bench.figures.floor_tokens_per_second(FACTS, gflops=1.0) == 1e9 / (4 * (90 + 0.4 * 25))


def test_a_row_is_the_median_of_its_runs(bench: Any) -> None:
    runs = [bench.figures.run_figures(result([1.0, 1.0]), 1, FACTS) | {"tokens_per_second": v} for v in (10, 40, 20)]
    found = bench.figures.row_figures(runs, floor=40.0, prepacked=80.0)
    assert (found["tokens_per_second"], found["share_of_floor"], found["spread"]) == (20, 0.5, 1.5)
    assert found["share_of_prepacked"] == 0.25


def test_other_tokens_or_a_leak_make_a_row_incorrect(bench: Any) -> None:
    def is_correct(loss: float, numbers: str, same: int = 32) -> bool:
        documents = {"same": same, "theirs": 32, "ours": 32}
        return bool(bench.figures.check_figures(result([loss], documents=documents), [10.0], numbers)["is_correct"])

    assert is_correct(10.0001, "float32")
    assert is_correct(10.002, "bf16")
    assert not is_correct(10.002, "float32")
    assert not is_correct(9.98, "bf16")
    assert not is_correct(10.0, "float32", same=31)


def test_documents_are_compared_with_their_labels(bench: Any, tmp_path: Path) -> None:
    file = tmp_path / "tokens.json"
    file.write_text(json.dumps([{"ids": [1, 5, 2], "mask": [0, 1, 1]}] * 2), encoding="utf-8")
    rows = [([1, 5, 2], [-100, 5, 2]), ([1, 5, 2], [-100, -100, 2])]
    assert bench.meter.agreement(rows, file) == {"same": 1, "theirs": 2, "ours": 2}


def test_the_fastest_row_counts_only_if_it_is_correct(bench: Any) -> None:
    rows = {name: row(bench, "trl", speed) for name, speed in (("slow", 10), ("fast", 20), ("leaky", 30))}
    checks = {"slow": {"is_correct": True}, "fast": {"is_correct": True}, "leaky": {"is_correct": False}}
    assert bench.table.fastest_correct({"rows": rows, "checks": checks}, "trl") == "fast"
    assert bench.table.fastest_correct({"rows": rows, "checks": {}}, "trl") is None


def test_the_table_has_every_row_and_the_ratios(bench: Any) -> None:
    rows = {"hantune-bf16": row(bench, "hantune", 60), "trl-packed": row(bench, "trl", 20)}
    found = {
        "command": "c", "date": "d", "machine": {"cpu": "x", "cores": 2, "load": [0, 0]}, "threads": 2, "rounds": 1,
        "steps": 2, "warm_up": 1, "hantune_steps": 2, "workload": FACTS, "matrix_rate": {"bf16": {"gflops": 400}},
        "floor": {"bf16": 100}, "versions": {}, "checks": {}, "rows": rows,
    }  # fmt: skip
    text = bench.table.markdown(found)
    assert "| hantune-bf16 | x | 60 " in text
    assert "| trl-packed | 3.00 | 1.00 | 1.00 |" in text


def test_an_unknown_row_is_refused(bench: Any) -> None:
    assert bench.rows.chosen("trl-flat,standard,trl-flat")[0] == "trl-flat"
    with pytest.raises(SystemExit, match="no row"):
        bench.rows.chosen("trl-nothing")


@pytest.mark.parametrize(("tool", "script"), [("trl", "trl_run"), ("llamafactory", "llamafactory_run")])
def test_every_row_of_a_peer_is_another_setting(bench: Any, tool: str, script: str) -> None:
    runner = importlib.import_module(script)
    options = runner.settings if tool == "trl" else runner.arguments
    task = {
        **FACTS, "data": "d", "scratch": "s", "steps": 3, "seed": 0, "learning_rate": 1e-4,
        "schedule": "constant",
    }  # fmt: skip
    rows = {name: row for name, row in bench.rows.ROWS.items() if row.tool == tool}
    made = {name: options({**task, "model": row.model, "settings": row.settings}) for name, row in rows.items()}
    assert len({json.dumps(one, sort_keys=True) for one in made.values()}) == len(made)
    for name, one in made.items():  # 16 dialogues a step, or two rows of as many tokens
        per_step = one["per_device_train_batch_size"] * one["gradient_accumulation_steps"]
        assert per_step == (2 if one.get("packing") else 16), name


def test_parity_judges_a_difference_by_its_noise(bench: Any) -> None:
    values = {"ours": (2.0, 2.2), "theirs": (2.1, 2.3), "worse": (2.9, 3.0)}
    measured = {f"{n}/{i}": {"bits_per_character": v} for n, both in values.items() for i, v in enumerate(both)}
    rows = bench.parity.summary(measured, list(values), 2, "theirs")
    assert [rows[name]["is_within_noise"] for name in values] == [True, True, False]
    assert rows["worse"]["difference"] == pytest.approx(0.75)
