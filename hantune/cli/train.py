"""``hantune train``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hantune.cli.frame import Answer, command, new_app
from hantune.log import duration
from hantune.paths import quoted

app = new_app("按配置训练")


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

    return finished(start(loaded.config))


def finished(result: Any) -> Answer:
    """The answer of a finished run."""
    lines = [f"步数      {result.steps}", f"结果      {result.output}"]
    if result.loss_before is not None and result.loss_after is not None:
        lines.append(f"验证损失  {result.loss_before:.3f} -> {result.loss_after:.3f}")
    lines += [
        *_cost(result),
        f"聊一聊    hantune chat {quoted(result.run.root)}",
        f"看报告    hantune report {quoted(result.run.root)}",
    ]
    return Answer(result=result.as_dict(), text="\n".join(lines))


def _cost(result: Any) -> list[str]:
    """Speed, time and memory of a run, in words for whoever has never trained one."""
    figures = result.figures
    speed = f"速度      {result.tokens_per_second:.0f} 词元/秒"
    if "supervised_per_second" in figures:
        speed += f", 其中要学的 {figures['supervised_per_second']:.0f}"
    if "matmul_share" in figures:
        speed += f"; 用到这台机器算力的 {figures['matmul_share']:.0%}"
    times = {"训练": "step_seconds", "评测": "eval_seconds", "试答": "probe_seconds", "保存": "save_seconds"}
    spent = [f"{word} {duration(figures[name])}" for word, name in times.items() if figures.get(name, 0) >= 0.5]
    held = [
        f"{word} {figures[name] / 2**30:.1f} GB"
        for word, name in (("内存", "memory_peak"), ("显存", "cuda_memory_peak"))
        if name in figures
    ]
    return [speed, f"用时      {', '.join(spent)}", *([f"最多占用  {', '.join(held)}"] if held else [])]


def _plan(config: Any) -> Answer:
    import tempfile

    from hantune.train.run import dry_run

    with tempfile.TemporaryDirectory() as scratch:
        plan = dry_run(config, Path(scratch))
    text = "\n".join(
        [
            f"样本  训练 {plan['num_samples']} 条, 验证 {plan['num_val']} 条, 共 {plan['tokens']} 个词元",
            f"步数  {plan['total_steps']} (每步 {plan['samples_per_step']} 条)",
            f"参数  {plan['parameters']['total'] / 1e6:.1f} 百万, 学习 {plan['parameters']['learned'] / 1e6:.2f} 百万",
            f"精度  {plan['precision']['name']}: {plan['precision']['reason']}",
            f"分批  {plan['layout']}: {plan['layout_reason']}",
            f"模板  {plan['template']}",
        ]
    )
    return Answer(result=plan, text=text)
