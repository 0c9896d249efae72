from typing import Annotated
import typer
from hantune.cli.frame import Answer, command, new_app

app = new_app("两分钟走完全程")

@command(app, "demo")
def demo(out: Annotated[str, typer.Option("--out", help="放结果的文件夹")] = "runs/demo") -> Answer:
    """两分钟走完全程: 不用显卡, 不用下载."""
    return Answer(result={"out": out}, text="你好 " + out)
