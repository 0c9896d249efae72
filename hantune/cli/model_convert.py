"""``hantune model convert``: Meta's layout or pickles as safetensors. ``cli/model.py`` registers it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hantune.cli.frame import Answer
from hantune.paths import quoted


def convert_command(
    folder: Annotated[str, typer.Argument(metavar="META_DIR", help="Meta 原版的文件夹, 或权重是 .bin 的文件夹")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="转换后的模型放在哪里")],
    chat: Annotated[bool, typer.Option("--chat", help="它是对话模型: 带上这一代 Llama 的对话模板")] = False,
    vocab_size: Annotated[
        int | None, typer.Option("--vocab-size", metavar="N", min=1, help="词表大小; 不写 = 看权重有几行")
    ] = None,
) -> Answer:
    """把 Meta 原版 (consolidated.*.pth) 或 .bin 权重转换成 safetensors; 不运行文件里的任何东西, 断了接着做.

    例子:  hantune model convert llama-2-7b-chat --out llama2-chat --chat
    """
    from hantune.models.convert.convert import convert

    result = convert(folder, out, chat=chat, vocab_size=vocab_size)
    return Answer(result=result, text=convert_text(result))


def convert_text(result: dict[str, Any]) -> str:
    """What was made, how far it is proven, and what comes next."""
    from hantune.cli.model import megabytes, millions

    folder = quoted(result["folder"])
    size = f"{millions(result['parameters'])} 参数, {megabytes(result['bytes'])}, {result['dtype']}"
    lines = [
        f"√ 转换后的模型在 {result['folder']} ({result['seconds']:.0f} 秒)",
        f"  {result['layers']} 层, {size}, 词表 {result['vocab_rows']}",
    ]
    if result["kept_bytes"]:
        lines.append(f"  其中 {megabytes(result['kept_bytes'])} 是上次已经转好的, 逐字节核对过")
    if result["md5_checked"]:
        lines.append(f"  checklist.chk: {len(result['md5_checked'])} 个文件的 md5 都对")
    else:
        lines.append("  没有 checklist.chk, 核对了权重文件自带的校验和")
    if result["template"]:
        lines.append(f"  对话模板 {result['template']}")
    lines += [f"! 注意  {finding}" for finding in result["findings"]]
    lines.append(f"下一步  hantune chat {folder}" if result["template"] else f"下一步  hantune model check {folder}")
    return "\n".join(lines)
