"""``hantune data export``: prepared conversations in the layouts of other tools. ``cli/data.py`` registers it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from hantune.cli.frame import Answer


def export_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="整理好的文件夹")],
    to: Annotated[str, typer.Option("--to", metavar="NAME", help="alpaca, sharegpt, messages 或 llamafactory")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="写到哪个文件 (.json 或 .jsonl)")],
    part: Annotated[
        Literal["train", "val"], typer.Option("--part", metavar="PART", help="train 训练部分, val 验证部分")
    ] = "train",
    replace: Annotated[bool, typer.Option("--replace", help="替换已有的文件")] = False,
) -> Answer:
    """把整理好的对话写成别的工具的格式; 每一段都读回来核对过, 写不成的不写, 说有多少.

    例子:  hantune data export prepared --to alpaca --out alpaca.json
    """
    from hantune.data.export import export
    from hantune.data.prepared import open_prepared
    from hantune.log import console

    prepared = open_prepared(folder)
    result = export(prepared, to, out, part, replace)
    for why, count in result["left_out"].items():
        console.warn(f"有 {count} 段没有写: {why}")
    lines = [f"写了  {result['written']} 段, {to} 的写法", *(f"写到  {file}" for file in result["files"])]
    if part == "train" and prepared.count("val"):
        lines.append(f"没写  验证部分 {prepared.count('val')} 段; 要的话再运行一次, 加 --part val, 换一个 --out")
    return Answer(result=result, text="\n".join(lines))
