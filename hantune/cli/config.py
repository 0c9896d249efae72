"""``hantune config show`` and ``hantune config check``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hantune.cli.frame import Answer, command, new_app
from hantune.cli.help import columns

app = new_app("查看或检查运行配置.")

RunFile = Annotated[Path, typer.Argument(metavar="RUN.yaml", help="运行配置 (YAML 或 JSON)")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="节.设置=值", help="临时改动, 例如 train.epochs=1; 优先于文件")
]
Preset = Annotated[str | None, typer.Option("--preset", metavar="NAME", help="垫在文件下面的预设")]


@command(app, "show")
def show(run_file: RunFile, overrides: Overrides = None, preset: Preset = None) -> Answer:
    """列出每个设置的值, 和它从哪里来 (默认, 预设, 文件:行, 命令行).

    例子:  hantune config show run.yaml train.epochs=1
    """
    from hantune.config.fields import sections
    from hantune.config.io import load_config, write_value

    loaded = load_config(run_file, overrides or (), preset)
    values = {
        f"{section}.{key}": value
        for section in sections()
        for key, value in getattr(loaded.config, section).model_dump(mode="json").items()
    }
    rows = [(name, write_value(value), loaded.origins[name]) for name, value in values.items()]
    widths = [min(40, max(columns(row[column]) for row in rows)) for column in (0, 1)]
    lines = [f"{_padded(name, widths[0])}  {_padded(value, widths[1])}  {origin}" for name, value, origin in rows]
    settings = {name: {"value": value, "from": loaded.origins[name]} for name, value in values.items()}
    return Answer(result={"path": str(run_file), "settings": settings}, text="\n".join(lines))


@command(app, "check")
def check(run_file: RunFile, overrides: Overrides = None, preset: Preset = None) -> Answer:
    """检查一份配置, 一次列出全部错误; 没有错误就退出 0.

    例子:  hantune config check run.yaml
    """
    from hantune.config.io import DEFAULT, load_config, require_complete

    loaded = load_config(run_file, overrides or (), preset)
    require_complete(loaded.config, str(run_file))
    changed = sum(origin != DEFAULT for origin in loaded.origins.values())
    return Answer(
        result={"path": str(run_file), "set": changed, "defaults": len(loaded.origins) - changed},
        text=f"√ {run_file} 没有错误: 写了 {changed} 个设置, 其余 {len(loaded.origins) - changed} 个用默认值",
    )


def _padded(text: str, width: int) -> str:
    """``text`` with blanks up to ``width`` columns."""
    return text + " " * (width - columns(text))
