"""``hantune resume``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hantune.cli.frame import Answer, command, new_app

app = new_app("从最近的好检查点接着练")


@command(app, "resume")
def resume(
    run: Annotated[Path, typer.Argument(help="运行文件夹", metavar="RUN_DIR")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="改批大小, 线程数, 设备, 评测和保存的间隔", metavar="节.设置=值")
    ] = None,
) -> Answer:
    """从最近的好检查点接着练: 结果和没有中断过的一模一样 (CPU 上逐位相同).

    换了机器或内存不够, 可以改每批几条, 线程数, 设备; 每条样本在一轮里仍然只学一次.

    例子:  hantune resume runs/20260101-120000 train.batch_size=4
    """
    from hantune.cli.train import reported
    from hantune.train.run import resume as go_on

    return reported(go_on(run, overrides or []))
