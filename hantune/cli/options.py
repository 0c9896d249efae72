"""Options that several verbs take, each described once."""

from __future__ import annotations

from typing import Annotated

import typer

from hantune.infer.settings import SETTINGS

Adapter = Annotated[str | None, typer.Option("--adapter", help="加在模型上的适配器文件夹")]
Base = Annotated[str | None, typer.Option("--base", help="适配器的底座在哪里 (自动找不到时)")]
Load = Annotated[
    str | None, typer.Option("--load", metavar="BITS", help="底座: 8bit 或 4bit 省内存, full 原样; 不写同训练时")
]
MaxNewTokens = Annotated[int, typer.Option("--max-new-tokens", help=SETTINGS["max_new_tokens"].meaning)]
Temperature = Annotated[float, typer.Option("--temperature", help=SETTINGS["temperature"].meaning)]
TopP = Annotated[float, typer.Option("--top-p", help=SETTINGS["top_p"].meaning)]
RepetitionPenalty = Annotated[
    float, typer.Option("--repetition-penalty", help=SETTINGS["repetition_penalty"].meaning)
]
