"""``hantune model get``: a model from a hub, a mirror, a web server or a folder. ``cli/model.py`` registers it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hantune.cli.frame import Answer
from hantune.paths import quoted


def get_command(
    repo: Annotated[str, typer.Argument(metavar="REPO", help="名字 (作者/模型), 或它的网页地址")],
    source: Annotated[
        str, typer.Option("--from", metavar="SRC", help="hf, modelscope, 镜像网址, 或放模型的文件夹")
    ] = "hf",
    revision: Annotated[
        str | None, typer.Option("--revision", metavar="R", help="版本: 分支, 标签或提交; 不写 = 最新")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="放在哪里; 不写 = hantune 的缓存")] = None,
    send_token: Annotated[
        bool, typer.Option("--send-token", help="把 Hugging Face 的登录凭证也给镜像 (信得过它才用)")
    ] = False,
) -> Answer:
    """下载模型: 断了接着下, 每个文件核对校验和, 只下用得到的文件; 下完检查.

    例子:  hantune model get Qwen/Qwen3-0.6B --out qwen
    """
    from hantune.log import console
    from hantune.models.hub import get_model

    result = get_model(repo, source=source, revision=revision, out=out, send_token=send_token)
    if result["unproved"]:
        console.warn(f"这个来源没有给校验和: {len(result['unproved'])} 个文件只核对了大小")
    check = None
    if result["kind"] == "safetensors":
        from hantune.models.check import check_model

        check = check_model(result["folder"])
    return Answer(result={**result, "check": check}, text=get_text(result, check))


def get_text(result: dict[str, Any], check: dict[str, Any] | None) -> str:
    """What came, from where, and what to do next."""
    from hantune.cli.model import megabytes

    folder, kind, left_out = result["folder"], result["kind"], result["left_out"]
    fetched = megabytes(result["fetched"]) if result["fetched"] else "没有要下载的"
    lines = [f"√ 模型在 {folder}", f"  {result['files']} 个文件, {megabytes(result['bytes'])}; 这次下载 {fetched}"]
    if result["revision"]:
        lines.append(f"  版本 {result['revision']}")
    if left_out["files"]:
        lines.append(f"  没下 {left_out['files']} 个用不到的文件 ({megabytes(left_out['bytes'])})")
    if check:
        lines += [f"! 注意  {finding}" for finding in check.get("findings", ())]
    lines.append(f"下一步  {_next(kind, folder)}")
    return "\n".join(lines)


def _next(kind: str, folder: str) -> str:
    """The command that uses what came."""
    if kind == "bin":
        return f"hantune model convert {quoted(folder)} --out 新文件夹   (pickle 的权重, 先转成 safetensors)"
    if kind == "meta":
        return f"hantune model convert {quoted(folder)} --out 新文件夹   (Meta 原版的权重, 先转换)"
    return f"hantune chat {quoted(folder)}"
