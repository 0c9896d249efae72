"""``hantune report RUN_DIR``: a run as one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hantune.cli.frame import Answer, command, new_app

app = new_app("把一次运行写成一个网页文件")


@command(app, "report")
def report(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="运行文件夹, 例如 runs/demo")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="写到哪里; 不给 = RUN_DIR/report.html")
    ] = None,
) -> Answer:
    """把一次运行写成一个网页文件: 数据, 曲线, 训练前后的回答, 成绩, 怎样重复. 不联网, 双击就能看.

    适配器和合并后的模型旁边的模型卡 (README.md) 也一起更新.
    """
    from hantune.paths import RunFolder
    from hantune.report.card import write_cards
    from hantune.report.data import read_run
    from hantune.report.page import write_report
    from hantune.report.verdict import verdict

    run = RunFolder(run_dir)
    found = verdict(read_run(run))
    path = write_report(run, out)
    write_cards(run)
    result = {"report": str(path), "verdict": found.sentence, "tone": found.tone, "notes": found.notes}
    return Answer(result=result, text=f"{found.sentence}\n报告  {path}  (双击打开)")
