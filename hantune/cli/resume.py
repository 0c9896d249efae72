"""``hantune resume``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hantune.cli.frame import Answer, command, new_app

app = new_app("从最近的好检查点接着练")


@command(app, "resume")
def resume(run: Annotated[Path, typer.Argument(help="运行文件夹", metavar="RUN_DIR")]) -> Answer:
    """从最近的好检查点接着练: 结果和没有中断过的一模一样 (CPU 上逐位相同).

    例子:  hantune resume runs/20260101-120000
    """
    from hantune.cli.train import finished
    from hantune.train.run import resume as go_on

    return finished(go_on(run))
