"""``hantune model expand-vocab``: more Chinese pieces, with what they gain. ``cli/model.py`` registers it."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from hantune.cli.frame import Answer
from hantune.errors import ConfigError
from hantune.paths import quoted


class Rows(Enum):
    """What the rows of new pieces begin with."""

    mean = "mean"
    random = "random"
    mean_all = "mean-all"


def expand_command(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="模型文件夹, 或 Hugging Face 上的名字")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="扩充后的模型放在哪里")],
    corpus: Annotated[
        list[str] | None,
        typer.Option("--corpus", metavar="DATA", help="从这些文字里选词: 整理好的文件夹或原始数据, 可写多次"),
    ] = None,
    sp_model: Annotated[
        Path | None, typer.Option("--sp-model", metavar="FILE", help="用这个 SentencePiece 词表 (.model) 里的词")
    ] = None,
    pieces: Annotated[
        Path | None, typer.Option("--pieces", metavar="FILE", help="用这个文件里的词, 一行一个, 重要的在前")
    ] = None,
    num_pieces: Annotated[
        int | None, typer.Option("--num-pieces", min=1, metavar="N", help="最多加几个词; 不写 = 语料选 8000, 词表全加")
    ] = None,
    rows: Annotated[
        Rows, typer.Option("--rows", metavar="HOW", help="新词的起点: mean 旧词元平均, random 随机, mean-all 全体平均")
    ] = Rows.mean,
    seed: Annotated[int, typer.Option("--seed", min=0, metavar="N", help="随机起点的种子")] = 0,
    measure: Annotated[
        bool | None,
        typer.Option("--measure/--no-measure", help="量扩充前后每个字要几比特 (要运行模型); 不写 = 小模型才量"),
    ] = None,
) -> Answer:
    """给模型扩充中文词表: 同样的话变短, 训练和回答都更快; 英文和代码的编号一个不变. 扩充以后要训练.

    例子:  hantune model expand-vocab llama2 --out llama2-zh --corpus prepared
    """
    if bool(sp_model) and bool(pieces) or not (corpus or sp_model or pieces):
        raise ConfigError(
            "cli.usage",
            "要说词从哪里来: --corpus, --sp-model, --pieces 写一个 (后两个只能写一个, 可以再加 --corpus 来量效果)",
            hint="hantune model expand-vocab 模型 --out 新文件夹 --corpus 数据",
        )
    from hantune.models.vocab.expand import expand_vocab

    result = expand_vocab(
        folder,
        out,
        corpus=corpus or (),
        sp_model=sp_model,
        pieces=pieces,
        num_pieces=num_pieces,
        start=rows.value,
        seed=seed,
        measure=measure,
    )
    return Answer(result=result, text=expand_text(result))


def expand_text(result: dict[str, Any]) -> str:
    """What was added, what it gains, and what to do next."""
    from hantune.cli.model import megabytes

    kept = result["kept"]
    lines = [
        f"√ 扩充后的模型在 {result['folder']}",
        f"  加了 {result['pieces']} 个词 (编号从 {result['first_id']} 起), "
        f"词表 {result['old_rows']} -> {result['rows']} 行, 大了 {megabytes(result['bytes_added'])}",
        f"  例如  {' '.join(result['examples'])}",
        *(f"  没加  {count} 个: {why}" for why, count in result["left_out"].items()),
        f"√ 核对  {kept['texts']} 段文字编码再解码不变; 没有中文的 {kept['plain']} 段编号不变"
        + (
            f"; {kept['compared_with_sentencepiece']} 段和 SentencePiece 编号相同"
            if kept["compared_with_sentencepiece"]
            else ""
        ),
        *(
            f"√ 每字词元  {row['tokens_per_character_before']:.3f} -> {row['tokens_per_character']:.3f}, "
            f"少到 1/{row['fewer']:.2f}  ({row['name']}, 没有拿来选词的 {row['characters']} 字)"
            for row in result["measured"]
        ),
    ]
    if bits := result.get("bits_per_character"):
        lines.append(
            f"  每字比特  {bits['before']:.2f} -> {bits['after']:.2f}  (还没训练; 新词要训练以后才会用, 越低越好)"
        )
    lines.append(f"下一步  hantune train 配置.yaml model.path={quoted(result['folder'])}  (新词自动一起学)")
    return "\n".join(lines)
