"""``hantune model export``: a model for other programs. ``cli/model.py`` registers it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hantune.cli.frame import Answer
from hantune.paths import quoted


def export_command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="模型文件夹, 或全量训练的运行文件夹")],
    to: Annotated[str, typer.Option("--to", metavar="NAME", help="给谁用: ollama, gguf (llama.cpp), vllm")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="写到哪个新文件夹")],
    kind: Annotated[
        str, typer.Option("--type", metavar="TYPE", help="GGUF 的精度: f16, q8_0, q4_0 (越后越小)")
    ] = "q8_0",
) -> Answer:
    """把模型写成别的程序能用的样子: 模板和结束词一起带去, 写完读回来核对.

    例子:  hantune model export merged --to ollama --out ollama
    """
    from hantune.models.export.export import export

    result = export(model, to, out, kind=kind)
    return Answer(result=result, text=export_text(result))


def export_text(result: dict[str, Any]) -> str:
    """What was written, how far it was checked, and the command that runs it."""
    from hantune.cli.model import megabytes

    folder = quoted(result["folder"])
    lines = [f"√ 写到 {result['folder']} ({megabytes(result['bytes'])}), 模板 {result['template']}"]
    lines += [f"  {name}" for name in result["files"] if name.endswith((".gguf", "Modelfile"))]
    if "errors" in result:
        lines.append(f"  读回来核对过: {result['tensors']} 个张量, {result['tokens']} 个词元, 对话模板")
    if result["target"] == "vllm":
        lines.append("  对话模板写在 chat_template.jinja 和 tokenizer_config.json 两处")
        if result["stop_words"]:
            words = " ".join(quoted(word) for word in result["stop_words"])
            lines.append(f"! 注意  请求里要带 stop: {words} (它们不是单个词元, 写不进 generation_config.json)")
        lines.append(f"下一步  vllm serve {folder}")
    elif result["target"] == "ollama":
        lines.append(f"下一步  cd {folder} && ollama create 名字 -f Modelfile && ollama run 名字")
    else:
        file = next(name for name in result["files"] if name.endswith(".gguf"))
        lines.append(f"下一步  llama-cli --jinja -m {quoted(Path(result['folder']) / file)}")
    return "\n".join(lines)
