"""``hantune chat``: talk to a model, answer one piped question, or the dialogues of a file."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hantune.cli.frame import Answer, command, new_app, write_out
from hantune.env import type_in_utf8
from hantune.errors import ConfigError, RunError
from hantune.paths import latest_run

if TYPE_CHECKING:
    from hantune.infer.engine import Engine
    from hantune.infer.sample import SamplingParams

app = new_app("和模型聊天")


@command(app, "chat")
def chat(
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="模型, 适配器或运行文件夹; 不写 = runs/ 里最近的一次训练")
    ] = None,
    adapter: Annotated[str | None, typer.Option("--adapter", help="加在模型上的适配器文件夹")] = None,
    base: Annotated[str | None, typer.Option("--base", help="适配器的底座在哪里 (自动找不到时)")] = None,
    load: Annotated[
        str | None, typer.Option("--load", metavar="BITS", help="底座: 8bit 或 4bit 省内存, full 原样; 不写同训练时")
    ] = None,
    prompt_file: Annotated[Path | None, typer.Option("--prompt-file", help="回答这个 JSON 文件里的每段对话")] = None,
    system: Annotated[str | None, typer.Option("--system", help="系统提示")] = None,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", help="一次回答最多多少个词元")] = 256,
    temperature: Annotated[float, typer.Option("--temperature", help="0 = 每次都选最可能的; 越大越多变")] = 0.0,
    top_p: Annotated[float, typer.Option("--top-p", help="只从累计概率达到它的词元里选")] = 1.0,
    repetition_penalty: Annotated[
        float, typer.Option("--repetition-penalty", help="出现过的词元变难选; 1 = 不惩罚")
    ] = 1.0,
    seed: Annotated[int | None, typer.Option("--seed", help="随机种子; 不写 = 每次不同")] = None,
) -> Answer:
    """和模型聊天: 底座, 分词器和模板自动找到. 从管道送来一个问题时, 标准输出只有回答.

    例子:  hantune chat runs/demo        echo 你好 | hantune chat runs/demo
    """
    from hantune.infer.chat import ChatSession
    from hantune.infer.dialogues import answer_dialogues, read_dialogues
    from hantune.infer.engine import open_engine
    from hantune.infer.sample import SamplingParams

    params = SamplingParams(
        max_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        repetition_penalty=repetition_penalty,
        seed=seed,
    )
    dialogues = None if prompt_file is None else read_dialogues(prompt_file)
    question = None if dialogues is not None or sys.stdin.isatty() else _piped_question()
    engine = open_engine(model or _latest(), adapter=adapter, base=base, load=load)
    if dialogues is not None:
        return _dialogues_answer(dialogues, answer_dialogues(engine, dialogues, params))
    if question is not None:
        return _one_answer(engine, question, system, params)
    ChatSession(engine, params, read=_read, write=write_out, system=system).run()
    return Answer()


def _latest() -> str:
    """The newest run.

    Raises: RunError ``run.none``.
    """
    run = latest_run()
    if run is None:
        raise RunError(
            "run.none",
            "runs/ 里还没有训练过的模型",
            place="runs",
            hint="写明和谁聊: hantune chat 模型文件夹; 还没有模型就先看演示: hantune demo",
        )
    return str(run.root)


def _piped_question() -> str:
    """All of standard input as one question.

    Raises: ConfigError ``infer.no-question``.
    """
    data = sys.stdin.buffer.read()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("gb18030", "replace")
    if not text.strip():
        raise ConfigError(
            "infer.no-question",
            "标准输入里没有问题",
            hint="echo 你好 | hantune chat 模型文件夹; 想面对面聊天就在终端里直接运行 hantune chat",
        )
    return text.strip()


def _one_answer(engine: Engine, question: str, system: str | None, params: SamplingParams) -> Answer:
    """The answer to a piped question, alone on stdout."""
    from hantune.data.types import Message

    messages = [Message(role="system", text=system)] if system else []
    messages.append(Message(role="user", text=question))
    done = engine.answer(messages, params)
    return Answer(result={"answers": [_entry(messages, done)]}, text=done.text)


def _dialogues_answer(dialogues: list[Any], completions: list[Any]) -> Answer:
    """Each dialogue and its answer."""
    blocks = []
    for messages, done in zip(dialogues, completions, strict=True):
        lines = [f"{message.role}: {message.text}" for message in messages]
        blocks.append("\n".join([*lines, f"answer: {done.text}"]))
    answers = [_entry(messages, done) for messages, done in zip(dialogues, completions, strict=True)]
    return Answer(result={"answers": answers}, text=f"\n{'─' * 40}\n".join(blocks))


def _entry(messages: list[Any], done: Any) -> dict[str, Any]:
    return {
        "messages": [{"role": message.role, "content": message.text} for message in messages],
        "answer": done.text,
        "finish_reason": done.finish_reason,
    }


def _read(prompt: str) -> str:
    """A line from the terminal, with line editing where Python has it; torn characters become U+FFFD."""
    type_in_utf8()
    with contextlib.suppress(ImportError):  # Windows has none
        import readline  # noqa: F401  # importing it is what turns editing on
    return input(prompt).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
