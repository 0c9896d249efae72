"""``hantune demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hantune.cli.frame import Answer, command, new_app

app = new_app("两分钟走完全程")


@command(app, "demo")
def demo(out: Annotated[Path, typer.Option("--out", help="放结果的文件夹")] = Path("runs/demo")) -> Answer:
    """两分钟走完全程: 造小模型, 看数据, 训练, 对比, 合并, 报告. 不用显卡, 不用下载, 不联网.

    例子:  hantune demo --out runs/demo
    """
    from hantune.workflow.demo import demo as perform
    from hantune.workflow.demo import demo_text

    result = perform(out)
    return Answer(result=result.as_dict(), text=demo_text(result))
