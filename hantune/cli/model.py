"""``hantune model``: make a new model, check a folder, merge an adapter into its base."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hantune.cli.frame import Answer, command, new_app
from hantune.cli.model_convert import convert_command
from hantune.cli.model_expand import expand_command
from hantune.cli.model_export import export_command
from hantune.cli.model_get import get_command
from hantune.paths import quoted

app = new_app("新建, 下载, 检查, 转换, 扩词表, 合并, 导出模型")


@command(app, "init")
def init(
    folder: Annotated[Path, typer.Argument(metavar="文件夹", help="新模型放在哪里")],
    preset: Annotated[str, typer.Option("--preset", help="大小: tiny, 15m, 110m, 1b, 7b")] = "tiny",
    family: Annotated[str, typer.Option("--family", help="家族: llama, bloom")] = "llama",
    tokenizer: Annotated[Path | None, typer.Option("--tokenizer", help="分词器文件夹; 不写 = 自带的中文分词器")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="随机种子: 同一个种子, 权重逐位相同")] = 0,
    dtype: Annotated[str, typer.Option("--dtype", help="存成什么精度: float32, bfloat16")] = "float32",
) -> Answer:
    """新建一个权重随机的模型 (还没学过任何东西, 要训练以后才会说话).

    例子:  hantune model init m110 --preset 110m
    """
    from hantune.models.init import init_model

    result = init_model(folder, preset=preset, family=family, tokenizer=tokenizer, seed=seed, dtype=dtype)
    text = (
        f"√ 新模型在 {folder}\n"
        f"  {family} {preset}, {millions(result['parameters'])} 参数, 词表 {result['vocab_size']}, "
        f"{dtype}, {megabytes(result['bytes'])}\n"
        f"  权重是随机的, 要训练以后才会说话\n"
        f"下一步  hantune train 配置.yaml model.path={quoted(folder)}"
    )
    return Answer(result=result, text=text)


command(app, "get")(get_command)


@command(app, "check")
def check(
    folder: Annotated[str, typer.Argument(metavar="文件夹", help="模型文件夹, 或 Hugging Face 上的名字")],
    deep: Annotated[bool, typer.Option("--deep", help="读完所有权重, 找 NaN 和无穷大 (平时只抽查)")] = False,
) -> Answer:
    """检查模型文件夹: 文件齐不齐, 权重和配置, 分词器和词表对不对得上 (只读文件头, 一秒以内).

    例子:  hantune model check m110
    """
    from hantune.models.check import check_model

    result = check_model(folder, deep=deep)
    return Answer(result=result, text=check_text(result))


command(app, "convert")(convert_command)
command(app, "expand-vocab")(expand_command)


def check_text(result: dict[str, Any]) -> str:
    """The findings for people."""
    template = result["template"] or ("自带" if result["chat_template"] else "没有, 训练和聊天时按家族选")
    lines = [
        f"√ 权重    {result['files']} 个文件, {megabytes(result['bytes'])}, {result['dtype']}, 和配置一致",
        f"√ 结构    {result['model_type']}, {result['layers']} 层, {millions(result['parameters'])} 参数",
        f"√ 词表    模型 {result['vocab_rows']} 行, 分词器 {result['tokenizer_ids']} 个编号",
        f"√ 填充符  {result['pad']} ({result['pad_reason']})",
        f"√ 模板    {template}",
        *(f"! 注意    {finding}" for finding in result["findings"]),
        f"指纹  {result['fingerprint'][:16]}",
    ]
    return "\n".join(lines)


@command(app, "merge")
def merge(
    adapter: Annotated[Path, typer.Argument(metavar="适配器", help="适配器文件夹, 或训练的运行文件夹")],
    out: Annotated[Path, typer.Option("--out", help="合并后的模型放在哪里")],
    base: Annotated[str | None, typer.Option("--base", help="底座模型; 不写 = 自己找")] = None,
) -> Answer:
    """把适配器合并进底座, 核对两者回答一致以后才留下.

    例子:  hantune model merge runs/demo --out merged
    """
    from hantune.models.merge.merge import merge as merge_adapter

    result = merge_adapter(adapter, out, base=base)
    if result["run"]:
        from hantune.paths import RunFolder, write_file
        from hantune.report.card import model_card

        write_file(out / "README.md", model_card(RunFolder(Path(result["run"])), merged=True))
    return Answer(result=result, text=merge_text(result))


def merge_text(result: dict[str, Any]) -> str:
    """What was merged and how equal it is."""
    proof = result["proof"]
    bits = {"nf4": "4 比特 (NF4)", "int8": "8 比特", "fp8": "8 比特浮点 (FP8)"}.get(result["base_quantization"])
    lines = [
        f"√ 合并后的模型在 {result['folder']} ({megabytes(result['bytes'])}; "
        f"写 {result['write_seconds']:.0f} 秒, 核对 {result['seconds'] - result['write_seconds']:.0f} 秒)",
        f"  改了 {result['tensors']} 个张量中的 {result['merged_tensors']} 个, 存成 {result['dtype']}",
        f"  核对: 每个权重都对; 输出最多相差 {proof['difference']:.1e} (允许 {proof['tolerance']:.0e}); "
        f"{proof['positions']} 处选词有 {proof['equal_tokens']} 处相同",
        *([f"  适配器是在 {bits} 的底座上练的, 合并的是它当时看到的权重"] if bits else []),
        f"下一步  hantune chat {quoted(result['folder'])}",
    ]
    return "\n".join(lines)


command(app, "export")(export_command)


def millions(count: int) -> str:
    """A number of parameters as people say it: ``3.0 M``, ``6.7 B``."""
    return f"{count / 1e9:.1f} B" if count >= 10**9 else f"{count / 1e6:.1f} M"


def megabytes(count: int) -> str:
    """A number of bytes: ``11.8 MB``, ``13.5 GB``."""
    return f"{count / 1e9:.1f} GB" if count >= 10**9 else f"{count / 1e6:.1f} MB"
