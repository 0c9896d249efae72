"""``hantune batch``: the answers to a file of questions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hantune.cli.frame import Answer, command, new_app

app = new_app("批量生成回答")


@command(app, "batch")
def batch(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="模型, 适配器或运行文件夹")],
    input: Annotated[Path, typer.Option("--input", help="问题: JSONL, JSON, CSV, 或整理好的数据文件夹")],
    output: Annotated[Path, typer.Option("--output", help="回答写到这里, 每行一个 JSON, 顺序和输入相同")],
    adapter: Annotated[str | None, typer.Option("--adapter", help="加在模型上的适配器文件夹")] = None,
    base: Annotated[str | None, typer.Option("--base", help="适配器的底座在哪里 (自动找不到时)")] = None,
    load: Annotated[
        str | None, typer.Option("--load", metavar="BITS", help="底座: 8bit 或 4bit 省内存, full 原样; 不写同训练时")
    ] = None,
    system: Annotated[str | None, typer.Option("--system", help="系统提示 (问题自己带着系统提示时用它自己的)")] = None,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", help="一个回答最多多少个词元")] = 256,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="一起生成几个回答 (不影响结果)")] = 8,
    temperature: Annotated[float, typer.Option("--temperature", help="0 = 每次都选最可能的; 越大越多变")] = 0.0,
    top_p: Annotated[float, typer.Option("--top-p", help="只从累计概率达到它的词元里选")] = 1.0,
    repetition_penalty: Annotated[
        float, typer.Option("--repetition-penalty", help="出现过的词元变难选; 1 = 不惩罚")
    ] = 1.0,
    seed: Annotated[int, typer.Option("--seed", help="随机种子 (temperature 大于 0 时有用)")] = 0,
) -> Answer:
    """批量生成回答. 中断后再运行同一条命令会接着生成. 也认 OpenAI 的批量文件 (custom_id, body).

    例子:  hantune batch runs/demo --input 问题.jsonl --output 回答.jsonl
    """
    from hantune.infer.batch import Form, PlainForm, answer_file
    from hantune.infer.engine import open_engine
    from hantune.infer.questions import first_record
    from hantune.infer.sample import SamplingParams

    params = SamplingParams(
        max_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        repetition_penalty=repetition_penalty,
        seed=seed,
    )
    record = first_record(input)
    form: Form = PlainForm(system=system)
    if isinstance(record, dict) and "custom_id" in record:
        from hantune.serve.lines import OpenAILines

        form = OpenAILines()
    engine = open_engine(model, adapter=adapter, base=base, load=load)
    counts = answer_file(engine, input, output, params, batch_size=batch_size, form=form)
    text = f"√ {counts['answers']} 个回答写到 {output}"
    if counts["errors"]:
        text += f"\n! {counts['errors']} 条没有回答, 原因在该行的 error 里"
    return Answer(result={"output": str(output), **counts}, text=text)
