"""``hantune train``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hantune.cli.frame import Answer, command, new_app
from hantune.log import console, duration, read_events, size
from hantune.paths import quoted

app = new_app("按配置训练")

SHOWN = 60
"""Characters of a question or an answer in the summary of a run."""


@command(app, "train")
def train(
    config: Annotated[Path, typer.Argument(help="运行配置 (YAML)", metavar="RUN.yaml")],
    overrides: Annotated[list[str] | None, typer.Argument(help="改其中几项, 优先于文件", metavar="节.设置=值")] = None,
    preset: Annotated[str | None, typer.Option(help="先套用一个预设")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="只检查数据和配置, 说明会做什么, 不训练")] = False,
) -> Answer:
    """按配置训练一个模型. 遮罩或模板有错时不会开始 (退出码 3).

    例子:  hantune train run.yaml train.learning_rate=1e-4
    """
    from hantune.config.io import load_config

    loaded = load_config(config, overrides or [], preset)
    if dry_run:
        return _plan(loaded.config)
    from hantune.train.run import train as start

    return reported(start(loaded.config))


def reported(result: Any) -> Answer:
    """The answer of a finished run, after its report and model card are written."""
    from hantune.report.card import write_cards
    from hantune.report.page import write_report

    try:
        report = write_report(result.run)
        write_cards(result.run)
    except Exception as error:  # hours of training are not called failed for a page
        console.warn(f"训练完成了, 但是报告没有写成 ({error}); 再写一次: hantune report {quoted(result.run.root)}")
        report = None
    return finished(result, report)


def finished(result: Any, report: Path | None = None) -> Answer:
    """The answer of a finished run. ``report``: its page, if there is one."""
    run = quoted(result.run.root)
    lines = [
        f"步数      {result.steps}",
        f"结果      {result.output}",
        *_gain(result),
        *_example(result),
        *_cost(result),
        f"聊一聊    hantune chat {run}",
        *([f"看报告    {report}  (双击打开)"] if report else []),
    ]
    if result.output == result.run.adapter:
        lines.append(f"合成模型  hantune model merge {run} --out 文件夹")
    told = {**result.as_dict(), "report": None if report is None else str(report)}
    return Answer(result=told, text="\n".join(lines))


def _gain(result: Any) -> list[str]:
    """The held-out loss before and after, and whether a better step was passed by."""
    lines = []
    if result.loss_before is not None and result.loss_after is not None:
        lines.append(f"验证损失  {result.loss_before:.3f} -> {result.loss_after:.3f}  (没见过的对话上, 越低越好)")
    if result.best_step is not None and result.best_step != result.kept_step:
        lines.append(f"最好的是  第 {result.best_step} 步, 取的是第 {result.kept_step} 步; 要最好的: train.final=best")
    return lines


def _example(result: Any) -> list[str]:
    """The first fixed question whose answer has changed, with both answers."""
    asked = [event for event in read_events(result.run.samples) if event["step"] <= result.kept_step]
    last = max((event["step"] for event in asked), default=0)
    before, after = ({e["prompt"]: e["answer"] for e in asked if e["step"] == step} for step in (0, last))
    for prompt, answer in after.items():
        if answer != before.get(prompt, answer):
            return [f"问一句    {_short(prompt)}", f"  练之前  {_short(before[prompt])}", f"  练之后  {_short(answer)}"]
    return []


def _short(text: str) -> str:
    """A text on one line, cut where it is long."""
    text = " ".join(text.split()) or "(没有回答)"
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."


def _cost(result: Any) -> list[str]:
    """Speed, time and memory of a run, in words for whoever has never trained one."""
    figures = result.figures
    speed = f"速度      {result.tokens_per_second:.0f} 词元/秒"
    if "supervised_per_second" in figures:
        speed += f", 其中要学的 {figures['supervised_per_second']:.0f}"
    if "matmul_share" in figures:
        speed += f"; 用到这台机器算力的 {figures['matmul_share']:.0%}"
    spent = [f"训练 {duration(figures['step_seconds'])}"]
    others = {"评测": "eval_seconds", "试答": "probe_seconds", "保存": "save_seconds"}
    spent += [f"{word} {duration(figures[name])}" for word, name in others.items() if figures.get(name, 0) >= 0.5]
    held = [
        f"{word} {size(figures[name])}"
        for word, name in (("内存", "memory_peak"), ("显存", "cuda_memory_peak"))
        if name in figures
    ]
    if held and "memory_expected" in figures:
        held.append(f"开始前预计 {size(figures['memory_expected'])}")
    return [speed, f"用时      {', '.join(spent)}", *([f"最多占用  {', '.join(held)}"] if held else [])]


def _plan(config: Any) -> Answer:
    import tempfile

    from hantune.cli.plan import table
    from hantune.train.planning.forecast import forecast

    with tempfile.TemporaryDirectory() as scratch:
        found = forecast(config, Path(scratch))
    refusal = found.refusal if config.train.memory_check else None
    return Answer(
        result=found.as_dict(), text=table(found), error=refusal, exit_code=refusal.exit_code if refusal else 0
    )
