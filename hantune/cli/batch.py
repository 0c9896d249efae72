"""``hantune batch``: the answers to a file of questions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hantune.cli.frame import Answer, command, new_app
from hantune.cli.options import Adapter, Base, Load, MaxNewTokens, RepetitionPenalty, Temperature, TopP

app = new_app("批量生成回答")


@command(app, "batch")
def batch(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="模型, 适配器或运行文件夹")],
    input: Annotated[Path, typer.Option("--input", help="问题: JSONL, JSON, CSV, 或整理好的数据文件夹")],
    output: Annotated[Path, typer.Option("--output", help="回答写到这里, 每行一个 JSON, 顺序和输入相同")],
    adapter: Adapter = None,
    base: Base = None,
    load: Load = None,
    system: Annotated[str | None, typer.Option("--system", help="系统提示 (问题自己带着系统提示时用它自己的)")] = None,
    max_new_tokens: MaxNewTokens = 256,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="一起生成几个回答 (不影响结果)")] = 8,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    repetition_penalty: RepetitionPenalty = 1.0,
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
    counts = answer_file(
        lambda: open_engine(model, adapter=adapter, base=base, load=load), input, output, params,
        batch_size=batch_size, form=form,
    )  # fmt: skip
    text = f"√ {counts['answers']} 个回答写到 {output}"
    if counts["errors"]:
        text += f"\n! {counts['errors']} 条没有回答, 原因在该行的 error 里"
    return Answer(result={"output": str(output), **counts}, text=text)
