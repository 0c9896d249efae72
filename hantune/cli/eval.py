"""``hantune eval``: how well a model does on held-out conversations."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hantune.cli.frame import Answer, command, new_app
from hantune.cli.options import Adapter, Base, Load

app = new_app("在留出数据上评测模型")

SHOWN = 3
"""Answers that are shown under the table."""


@command(app, "eval")
def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="模型, 适配器或运行文件夹")],
    data: Annotated[Path, typer.Option("--data", help="hantune data prepare 的输出文件夹 (用它的验证部分)")],
    adapter: Adapter = None,
    base: Base = None,
    load: Load = None,
    max_samples: Annotated[int, typer.Option("--max-samples", min=1, help="最多用多少段对话 (按种子抽样)")] = 100,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1, help="一个回答最多多少个词元")] = 128,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="一起算几条 (不影响结果)")] = 16,
    metrics: Annotated[str | None, typer.Option("--metrics", help="只要这些指标, 如 loss,bleu; 不写 = 全部")] = None,
    seed: Annotated[int, typer.Option("--seed", help="抽样的种子")] = 42,
) -> Answer:
    """评测模型: 验证损失, 困惑度, 每字比特, 以及回答和参考答案有多像.

    例子:  hantune eval runs/demo --data prepared
    """
    from hantune.data.prepared import open_prepared
    from hantune.evaluate.report import ANSWERS, LOSSES, evaluate_prepared, require_metrics
    from hantune.infer.engine import open_engine

    wanted = [name.strip() for name in metrics.split(",") if name.strip()] if metrics else [*LOSSES, *ANSWERS]
    require_metrics(wanted)
    prepared = open_prepared(data)
    engine = open_engine(model, adapter=adapter, base=base, load=load)
    result = evaluate_prepared(
        engine,
        prepared,
        metrics=wanted,
        max_samples=max_samples,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        seed=seed,
    )
    return Answer(result=result, text=_text(result, wanted))


def _text(result: dict[str, Any], wanted: list[str]) -> str:
    """A table of the measures with what they mean, and some answers."""
    from hantune.report.words import HELD_OUT, METRICS, measure_text

    rows = [(m, result["held_out"][m.key]) for m in HELD_OUT if m.key in wanted and "held_out" in result]
    rows += [(m, result["metrics"][m.key]) for m in METRICS if m.key in result.get("metrics", {})]
    lines = []
    for measure, value in rows:
        wide = sum(not character.isascii() for character in measure.name)  # a Chinese character takes two columns
        lines.append(f"{measure.name.ljust(14 - wide)}{measure_text(measure, value):>10}  {measure.meaning}")
    for answer in result.get("answers", [])[:SHOWN]:
        lines += ["", f"问  {answer['prompt']}", f"参考  {answer['reference']}", f"回答  {answer['answer']}"]
    return "\n".join(lines)
