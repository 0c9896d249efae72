"""``hantune chat``: talk to a model, answer one piped question, or the dialogues of a file."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hantune.cli.frame import Answer, command, new_app, write_err, write_out
from hantune.cli.options import Adapter, Base, Load, MaxNewTokens, RepetitionPenalty, Temperature, TopP
from hantune.env import type_in_utf8
from hantune.errors import ConfigError, RunError
from hantune.log import console
from hantune.paths import latest_run

if TYPE_CHECKING:
    from hantune.data.types import Message
    from hantune.infer.engine import Completion, Engine
    from hantune.infer.sample import SamplingParams

app = new_app("和模型聊天")


@command(app, "chat")
def chat(
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="模型, 适配器或运行文件夹; 不写 = runs/ 里最近的一次训练")
    ] = None,
    adapter: Adapter = None,
    base: Base = None,
    load: Load = None,
    prompt_file: Annotated[Path | None, typer.Option("--prompt-file", help="回答这个 JSON 文件里的每段对话")] = None,
    system: Annotated[str | None, typer.Option("--system", help="系统提示")] = None,
    max_new_tokens: MaxNewTokens = 256,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    repetition_penalty: RepetitionPenalty = 1.0,
    seed: Annotated[int | None, typer.Option("--seed", help="随机种子; 不写 = 每次不同")] = None,
) -> Answer:
    """和模型聊天: 底座, 分词器和模板自动找到. 从管道送来一个问题时, 标准输出只有回答, 边生成边输出.

    例子:  hantune chat runs/demo        echo 你好 | hantune chat runs/demo
    """
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
    engine.get_ready()
    if dialogues is not None:
        return _dialogues_answer(dialogues, answer_dialogues(engine, dialogues, params))
    if question is not None:
        return _one_answer(engine, question, system, params)
    return _talk(engine, system, params)


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
    """The answer to a piped question, alone on stdout, as it comes."""
    from hantune.data.types import Message
    from hantune.infer.chat import keeping, printable

    messages = [Message(role="system", text=system)] if system else []
    messages.append(Message(role="user", text=question))
    ends: list[Completion] = []
    show = printable if sys.stdout.isatty() else str
    try:
        for text in keeping(engine.stream(messages, params), ends):
            if not console.as_json:
                write_out(show(text))
    finally:
        if not console.as_json:
            write_out("\n")
    if ends[0].finish_reason == "length":
        console.warn(f"回答到了长度上限 (--max-new-tokens {params.max_tokens}, 或模型的上下文), 没有说完")
    return Answer(result={"answers": [_entry(messages, ends[0])]})


def _talk(engine: Engine, system: str | None, params: SamplingParams) -> Answer:
    """A chat in the terminal. What stdout is kept for elsewhere, the whole conversation, it gets when the chat ends."""
    from hantune.infer.chat import ChatSession

    is_kept = console.as_json or not sys.stdout.isatty()
    session = ChatSession(engine, params, read=_read, write=write_err if is_kept else write_out, system=system)
    session.run()
    text = "\n".join(f"{message.role}: {message.text}" for message in session.history) if is_kept else ""
    return Answer(result={"messages": _plain(session.history)}, text=text)


def _dialogues_answer(dialogues: list[Any], completions: list[Any]) -> Answer:
    """Each dialogue and its answer."""
    blocks = []
    for messages, done in zip(dialogues, completions, strict=True):
        lines = [f"{message.role}: {message.text}" for message in messages]
        blocks.append("\n".join([*lines, f"answer: {done.text}"]))
    answers = [_entry(messages, done) for messages, done in zip(dialogues, completions, strict=True)]
    return Answer(result={"answers": answers}, text=f"\n{'─' * 40}\n".join(blocks))


def _entry(messages: list[Message], done: Any) -> dict[str, Any]:
    return {
        "messages": _plain(messages),
        "answer": done.text,
        "finish_reason": done.finish_reason,
    }


def _plain(messages: list[Message]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.text} for message in messages]


def _read(prompt: str) -> str:
    """A line from the terminal, with line editing where Python has it; torn characters become U+FFFD."""
    type_in_utf8()
    with contextlib.suppress(ImportError):  # Windows has none
        import readline  # noqa: F401  # importing it is what turns editing on
    if not sys.stdout.isatty():  # input() would write the prompt there
        write_err(prompt)
        prompt = ""
    return input(prompt).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
