"""``hantune plan``."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from hantune.cli.frame import Answer, command, new_app
from hantune.cli.help import columns
from hantune.log import duration, size

app = new_app("训练之前先算: 内存, 时间, 磁盘够不够")


@command(app, "plan")
def plan(
    config: Annotated[Path, typer.Argument(help="运行配置 (YAML)", metavar="RUN.yaml")],
    overrides: Annotated[list[str] | None, typer.Argument(help="改其中几项, 优先于文件", metavar="节.设置=值")] = None,
    preset: Annotated[str | None, typer.Option(help="先套用一个预设")] = None,
    devices: Annotated[
        str | None, typer.Option("--devices", help="为别处的显卡算: 张数x显存", metavar="8x80GB")
    ] = None,
    nodes: Annotated[int, typer.Option("--nodes", min=1, help="几台机器, 每台都有 --devices 那么多卡")] = 1,
    measure: Annotated[
        bool, typer.Option("--measure", help="载入模型, 试跑几个小批, 时间按实测算 (慢一些)")
    ] = False,
    write: Annotated[
        Path | None, typer.Option("--write", help="把放得下的配置写到这个新文件", metavar="FILE")
    ] = None,
) -> Answer:
    """训练之前先算: 要多少内存, 多少时间, 多少磁盘; 放不下时怎样改就放得下 (退出码 3).

    不载入权重, 只看模型的形状和数据的真实长度. train 开始前也做同样的检查.

    例子:  hantune plan run.yaml --devices 1x24GB --write small.yaml
    """
    from hantune.config.io import load_config
    from hantune.errors import ConfigError
    from hantune.train.planning.forecast import forecast
    from hantune.train.planning.target import parse_devices

    if write is not None and write.exists():
        raise ConfigError("config.exists", f"已经有这个文件了: {write}", place=str(write), hint="--write 另写一个名字")
    if devices is not None and measure:
        hint = "去掉 --measure 或 --devices"
        raise ConfigError("plan.bad-devices", "不在这里的显卡没法实测", place="--measure", hint=hint)
    target = None if devices is None else parse_devices(devices, nodes)
    loaded = load_config(config, overrides or [], preset)
    with tempfile.TemporaryDirectory() as scratch:
        found = forecast(loaded.config, Path(scratch), target=target, measure=measure)
    text = table(found)
    if write is not None and (found.ladder is None or found.ladder.fits):
        _write(write, config, loaded, found.ladder.values if found.ladder else {})
        text += f"\n写好了放得下的配置  {write}"
    refusal = found.refusal
    return Answer(result=found.as_dict(), text=text, error=refusal, exit_code=refusal.exit_code if refusal else 0)


def _write(target: Path, source: Path, loaded: Any, changes: dict[str, Any]) -> None:
    """The file with what the command line and the ladder change; its comments stay."""
    from hantune.config.check import COMMAND_LINE
    from hantune.config.io import dump_config, read_text, with_values
    from hantune.paths import write_file
    from hantune.train.planning.ladder import with_changes

    typed = {name for name, origin in loaded.origins.items() if origin == COMMAND_LINE}
    config = with_changes(loaded.config, changes)
    values = {name: getattr(getattr(config, (at := name.split("."))[0]), at[1]) for name in (*sorted(typed), *changes)}
    is_whole = loaded.preset is not None or source.suffix == ".json"
    write_file(target, dump_config(config, comments=True) if is_whole else with_values(read_text(source), values))


def table(found: Any) -> str:
    """The forecast for people."""
    outlook = found.outlook
    memory, tensors, plan = outlook.memory, outlook.memory.tensors, outlook.plan
    largest, tokens = outlook.largest, int(found.material.train.lengths.sum())
    rows: list[tuple[str, str, str]] = [
        ("模型", _count(outlook.parameters), f"个参数, 其中学习 {_count(outlook.learned)}"),
        ("精度", outlook.precision.name, outlook.precision.reason),
        ("预排", "开" if outlook.prepack.is_on else "关", outlook.prepack.reason),
        ("重算", "开" if outlook.recompute.is_on else "关", outlook.recompute.reason),
        (
            "数据",
            f"{plan.num_samples} 条",
            f"{tokens} 个词元, 验证 {plan.num_val} 条; 模板 {found.material.template.name}",
        ),
        ("步数", f"{plan.total_steps}", f"每步 {plan.samples_per_step} 条; {plan.layout}: {plan.layout_reason}"),
        ("", "", ""),
        ("底座权重", size(tensors.base), "不学的部分"),
        *([("预排的权重", size(tensors.prepacked), "按矩阵乘法要的次序另排的")] if tensors.prepacked else []),
        ("学习的权重", size(tensors.learned), "float32"),
        ("梯度", size(tensors.gradients), ""),
        ("优化器", size(tensors.optimizer), found.config.train.optimizer),
        (
            "中间结果",
            size(tensors.activations),
            f"最长的一批: {largest.samples} 条, {largest.rows} x {largest.columns} 个词元, 最长一条 {largest.longest}",
        ),
        ("临时", size(tensors.rest), "输出层的分数等"),
        ("程序", size(memory.process), "Python, torch 和它们的缓冲" if outlook.target.device.type == "cpu" else "CUDA"),
        ("空隙", size(memory.holes), "分配器留着没还的"),
        ("最高", size(memory.needed), _verdict(outlook)),
        ("评测时", size(tensors.evaluation), "只算张量"),
        ("载入时", size(memory.loading), _loading_note(memory)),
        *([("主机内存", size(memory.host), "")] if outlook.target.device.type != "cpu" else []),
        ("", "", ""),
        *_time_rows(found),
        ("磁盘", size(outlook.disk.most), _disk_note(outlook)),
    ]
    return "\n".join(_lines(rows))


def _count(numbers: int) -> str:
    return f"{numbers / 1e9:.2f} B" if numbers >= 1e9 else f"{numbers / 1e6:.2f} M"


def _verdict(outlook: Any) -> str:
    room = outlook.target.room
    if room is None:
        return "这个系统不说还有多少内存, 不检查"
    where = f"{outlook.target.name()}能用 {size(room)}"
    return f"放得下: {where}" if outlook.fits else f"放不下: {where}"


def _loading_note(memory: Any) -> str:
    return f"其中 {size(memory.passing)} 是读过的权重文件, 别的程序要用时系统会收回" if memory.passing else ""


def _disk_note(outlook: Any) -> str:
    disk = outlook.disk
    free = f", 还剩 {size(outlook.free_disk)}" if outlook.target.is_here else ""
    return f"检查点每个 {size(disk.checkpoint)}, 结果 {size(disk.output)}{free}"


def _time_rows(found: Any) -> Iterable[tuple[str, str, str]]:
    took = found.duration
    if took is None:
        total = found.outlook.volume.flop
        seconds = total / 1e14 / found.outlook.target.total
        yield "时间", "不知道", f"要看卡多快: 每张卡每秒能算成 100 TFLOP 的话, 约 {duration(seconds)}"
        return
    how = "用它自己的几个小批实测" if took.is_measured else "只按矩阵乘法的速度估计, 可能差一倍; 实测: --measure"
    yield "时间", f"约 {duration(took.total)}", how
    parts = {"训练": took.training, "评测": took.evaluation, "试答": took.probes, "保存": took.saving}
    yield "", "", ", ".join(f"{word} {duration(seconds)}" for word, seconds in parts.items() if seconds >= 0.5)


def _lines(rows: list[tuple[str, str, str]]) -> Iterable[str]:
    """Three columns: names to the left, figures to the right, notes behind."""
    names, figures = (max(columns(row[column]) for row in rows) for column in (0, 1))
    for name, figure, note in rows:
        left = name + " " * (names - columns(name) + 2)
        yield f"{left}{' ' * (figures - columns(figure))}{figure}  {note}".rstrip()
