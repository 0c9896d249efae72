"""``hantune publish``: hand a model or adapter on to Hugging Face or ModelScope."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hantune.cli.frame import Answer, command, new_app

if TYPE_CHECKING:
    from hantune.models.export.publish import Plan

app = new_app("发布模型或适配器")
TITLES = {"hf": "Hugging Face", "modelscope": "ModelScope (魔搭)"}


class Place(Enum):
    """Where to."""

    hf = "hf"
    modelscope = "modelscope"


@command(app, "publish")
def publish(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="训练的运行文件夹, 适配器, 模型或导出的文件夹")],
    to: Annotated[Place, typer.Option("--to", metavar="HUB", help="hf 或 modelscope")],
    repo: Annotated[str, typer.Option("--repo", metavar="NAME", help="名字: 你的用户名/模型名")],
    public: Annotated[bool, typer.Option("--public", help="公开; 不写 = 只有自己看得见")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="不再问, 直接上传")] = False,
    allow_private: Annotated[
        bool, typer.Option("--allow-private", help="训练数据里找到的隐私内容都看过, 确定可以发布")
    ] = False,
) -> Answer:
    """发布到网上: 默认只有自己看得见, 先列出文件和大小再问; 训练数据有没遮盖的隐私内容就拒绝.

    例子:  hantune publish runs/demo --to hf --repo 你的用户名/chat
    """
    from hantune.errors import RefusedError
    from hantune.models.export.publish import CARD, plan, require_no_private_data
    from hantune.models.export.publish import publish as send

    planned = plan(folder)
    if not allow_private:
        require_no_private_data(planned)
    card = _card(planned)
    _warn(planned, card is not None or CARD in planned.files)
    if not yes and not _agrees(plan_text(planned, TITLES[to.value], repo, public=public)):
        raise RefusedError(
            "publish.not-confirmed", "没有上传: 没有得到同意", place=str(folder), hint="在终端里回答 y, 或者加 --yes"
        )
    page = send(planned, to.value, repo, public=public, card=card)
    result = {
        "page": page, "folder": str(planned.folder), "files": planned.files, "bytes": planned.bytes,
        "left": list(planned.left), "public": public, "privacy": planned.privacy,
    }  # fmt: skip
    seen = "任何人都看得见" if public else "只有你看得见"
    return Answer(
        result=result, text=f"√ 已发布: {page} ({seen})\n  {len(planned.files)} 个文件, {_size(planned.bytes)}"
    )


def plan_text(planned: Plan, title: str, repo: str, *, public: bool) -> str:
    """The files with their sizes, what stays, and who will see them."""
    width = max(map(len, planned.files))
    lines = [f"要上传到 {title} 的 {repo} ({'公开' if public else '只有自己看得见'}):"]
    lines += [f"  {name:<{width}}  {_size(size):>9}" for name, size in planned.files.items()]
    lines.append(f"  共 {len(planned.files)} 个文件, {_size(planned.bytes)}")
    if planned.left:
        shown = "、".join(planned.left[:6]) + (" 等" if len(planned.left) > 6 else "")
        lines.append(f"  不上传: {shown}")
    return "\n".join(lines)


def _card(planned: Plan) -> str | None:
    """The model card of the run that made the model; None where the run is not known."""
    if planned.run is None:
        return None
    from hantune.report.card import model_card

    return model_card(planned.run, merged=planned.is_merged)


def _warn(planned: Plan, has_card: bool) -> None:
    """What the user should know before the answer."""
    from hantune.log import console

    if planned.privacy == "unknown":
        console.warn("找不到训练数据, 不知道里面有没有隐私内容: 请自己确认")
    if planned.found:
        console.warn("训练数据里有没遮盖的隐私内容, 你用了 --allow-private")
    if not has_card:
        console.warn("没有说明 (README.md), 别人不知道它是什么, 怎么用; 可以自己写一个放进文件夹")


def _agrees(text: str) -> bool:
    """Show ``text`` and ask; without a terminal nobody can agree."""
    sys.stderr.write(text + "\n")
    if not sys.stdin.isatty():
        return False
    sys.stderr.write("上传吗? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes", "是")


def _size(count: int) -> str:
    """Bytes for people: ``1.4 KB``, ``12.7 MB``, ``13.5 GB``."""
    for unit, name in ((10**9, "GB"), (10**6, "MB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count / 1000:.1f} KB"
