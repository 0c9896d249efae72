"""One model measured on one prepared folder: held-out loss, measures of its answers, and the answers themselves."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any, Literal

from hantune.data.batch import evaluation_batches
from hantune.data.prepared import Prepared
from hantune.data.store import open_tokens
from hantune.errors import ConfigError
from hantune.evaluate.answers import evaluate_model
from hantune.evaluate.perplexity import HeldOut, held_out
from hantune.infer.engine import Engine
from hantune.log import console

LOSSES = ("loss", "perplexity", "bits_per_character")
ANSWERS = (
    "bleu", "rouge_l", "chrf", "exact_match", "distinct_1", "distinct_2", "stop_rate", "chinese_share", "repetition",
    "empty_share", "length_ratio", "mean_length",
)  # fmt: skip


def evaluate_prepared(
    engine: Engine,
    prepared: Prepared,
    *,
    metrics: Sequence[str] = (*LOSSES, *ANSWERS),
    max_samples: int | None = 100,
    max_tokens: int = 1024,
    max_new_tokens: int = 128,
    batch_size: int = 16,
    seed: int = 42,
) -> dict[str, Any]:
    """One side of evaluation.json: ``{"part", "held_out": {...}, "metrics": {...}, "answers": [...]}``.

    ``held_out`` is there when a loss is asked for, the other two when a measure of answers is. Greedy answers.
    Raises: ConfigError ``eval.unknown-metric``.
    """
    require_metrics(metrics)
    part: Literal["train", "val"] = "val" if prepared.count("val") else "train"
    if part == "train":
        console.warn("这份数据没有留出验证部分, 用训练部分评测: 训练过它的模型会显得比实际好")
    result: dict[str, Any] = {"part": part}
    if set(metrics) & set(LOSSES):
        measured = held_out_loss(
            engine, prepared, part, max_samples=max_samples, max_tokens=max_tokens, batch_size=batch_size, seed=seed
        )
        result["held_out"] = measured.as_dict()
    if set(metrics) & set(ANSWERS):
        result |= evaluate_model(
            engine,
            prepared.conversations(part),
            max_samples=max_samples,
            max_tokens=max_new_tokens,
            batch_size=batch_size,
            seed=seed,
        )
        wanted = {*metrics, "count"}
        result["metrics"] = {name: value for name, value in result["metrics"].items() if name in wanted}
    return result


def held_out_loss(
    engine: Engine,
    prepared: Prepared,
    part: Literal["train", "val"],
    *,
    max_samples: int | None,
    max_tokens: int,
    batch_size: int = 16,
    seed: int = 42,
) -> HeldOut:
    """The loss on a part under the engine's own template; samples longer than the context lose their last turns."""
    most = max_tokens if engine.limit is None else min(max_tokens, engine.limit)
    samples = open_tokens(
        prepared, part, engine.encoder, engine.template, max_tokens=most, max_samples=max_samples, seed=seed
    )
    batches = list(evaluation_batches(samples, pad_id=engine.encoder.pad_id, batch_size=batch_size))
    engine.get_ready()
    with console.progress("验证损失", len(batches), unit="批") as bar:

        def counted() -> Any:
            for batch in batches:
                yield batch
                bar.advance()

        return held_out(engine.model, counted())


def require_metrics(names: Sequence[str]) -> None:
    """Nothing, if all are names of measures.

    Raises: ConfigError ``eval.unknown-metric`` with the nearest name.
    """
    known = (*LOSSES, *ANSWERS)
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
            raise ConfigError(
                "eval.unknown-metric",
                f"没有叫 {name} 的指标" + (f", 是不是 {near[0]}?" if near else ""),
                place="--metrics",
                hint=f"可以写 {','.join(known)}; 不写就全部",
            )
