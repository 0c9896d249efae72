"""``hantune serve``: models over HTTP."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hantune.cli.frame import Answer, command, new_app
from hantune.cli.options import Base, Load
from hantune.env import environment
from hantune.errors import ConfigError, HantuneError, MachineError, is_out_of_memory
from hantune.log import console, size

if TYPE_CHECKING:
    from hantune.infer.engine import Engine
    from hantune.serve.served import Served

app = new_app("对外服务")
LESS = {
    "full": "底座压成 8 比特: --load 8bit", "8bit": "底座压成 4 比特: --load 4bit", "4bit": "换小一点的模型",
}  # fmt: skip


class Precision(Enum):
    """Of the arithmetic."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Kind(Enum):
    """Who computes."""

    local = "local"
    vllm = "vllm"


Dtype = Annotated[
    Precision, typer.Option("--dtype", metavar="NAME", help="float32, bfloat16 或 float16; auto = 按机器选")
]
With = Annotated[
    Kind, typer.Option("--engine", metavar="NAME", help="local = 自带的; vllm = 装了 vLLM 时交给它")
]
Adapters = Annotated[
    list[str] | None,
    typer.Option("--adapter", metavar="NAME=DIR", help="同一个底座的另一个适配器和它的名字, 可写多次"),
]
Host = Annotated[str, typer.Option("--host", help="在哪个地址等待连接; 0.0.0.0 = 别的机器也能连, 要密钥")]
Key = Annotated[
    list[str] | None,
    typer.Option("--api-key", metavar="KEY", help="密钥, 可写多次; 也可以放在环境变量 HANTUNE_API_KEY 里"),
]
PerKey = Annotated[
    int | None, typer.Option("--per-key", min=1, help="一个密钥同时最多几个请求; 不写 = 不另外限制")
]
Drain = Annotated[float, typer.Option("--drain-seconds", min=0, help="停止时最多等正在进行的回答多少秒")]
Cors = Annotated[
    list[str] | None,
    typer.Option("--cors", metavar="ORIGIN", help="允许哪个网站的网页来用, 如 https://a.com, 可写多次"),
]


@command(app, "serve")
def serve(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="模型, 适配器或运行文件夹, 或模型站上的名字")],
    adapter: Adapters = None,
    base: Base = None,
    host: Host = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="端口; 0 = 随便一个空的")] = 8000,
    api_key: Key = None,
    load: Load = None,
    dtype: Dtype = Precision.auto,
    engine: With = Kind.local,
    max_batch: Annotated[int, typer.Option("--max-batch", min=1, help="最多几个请求一起回答")] = 32,
    max_queue: Annotated[int, typer.Option("--max-queue", min=0, help="最多几个请求排队, 再多就答 429")] = 64,
    per_key: PerKey = None,
    timeout: Annotated[float, typer.Option("--timeout", min=1, help="一个请求最多多少秒 (含排队)")] = 600.0,
    drain_seconds: Drain = 30.0,
    cors: Cors = None,
) -> Answer:
    """对外服务: OpenAI 的接口 (/v1), 聊天网页 (/), 轮询接口 (/stream). Ctrl-C 停止, 先把正在进行的回答答完.

    例子:  hantune serve runs/demo        hantune serve MODEL --adapter 甲=runs/a --host 0.0.0.0
    """
    from hantune.serve.address import listen
    from hantune.serve.keys import is_loopback, new_key, require_good_keys

    adapters, origins = _adapters(adapter or []), _origins(cors or [])
    own_key = environment().api_key
    keys = list(api_key or ([own_key] if own_key else []))
    require_good_keys(keys, host)
    is_new = not keys and not is_loopback(host)
    keys = keys or ([new_key()] if is_new else [])
    listening = listen(host, port)
    if engine is Kind.vllm:
        listening.close()
        return _vllm(
            model, base, adapters, host, port, keys, is_new=is_new, load=load, dtype=dtype, max_batch=max_batch,
            cors=origins,
        )  # fmt: skip
    served = _open(model, base, adapters, load, dtype, max_batch, max_queue)

    from hantune.serve.app import Settings, build
    from hantune.serve.server import run

    settings = Settings(
        host=host, keys=keys, cors=origins, seconds=timeout, per_key=per_key, log=None if console.quiet else console.say
    )  # fmt: skip
    ended_by = run(
        build(served, settings), served, listening, drain_seconds=drain_seconds,
        announce=lambda: _introduce(served, host, listening.getsockname()[1], keys, is_new=is_new),
    )  # fmt: skip
    return _ending(served, ended_by)


def _adapters(words: list[str]) -> dict[str, Path]:
    """Name -> folder.

    Raises: ConfigError ``serve.bad-adapter``.
    """
    found: dict[str, Path] = {}
    for word in words:
        name, _, folder = word.partition("=")
        if not name or not folder or name in found:
            raise ConfigError(
                "serve.bad-adapter",
                f"--adapter 要写成 名字=文件夹, 每个名字只写一次, 这里是: {word}",
                place="--adapter",
                hint="例如 --adapter zhongyi=runs/zhongyi",
            )
        found[name] = Path(folder).expanduser()
    return found


def _origins(words: list[str]) -> list[str]:
    """Origins of web pages as browsers send them.

    Raises: ConfigError ``serve.bad-origin``.
    """
    import re

    for word in words:
        if word != "*" and not re.fullmatch(r"https?://[^/\s]+", word):
            raise ConfigError(
                "serve.bad-origin",
                f"--cors 要写网站的来源 (协议://主机:端口, 没有路径), 这里是: {word}",
                place="--cors",
                hint="例如 --cors https://chat.example.com",
            )
    return words


def _open(
    model: str,
    base: str | None,
    adapters: dict[str, Path],
    load: str | None,
    dtype: Precision,
    max_batch: int,
    max_queue: int,
) -> Served:
    """The model and its adapters in memory, at work.

    Raises: MachineError ``machine.out-of-memory`` that names the next smaller way to load.
    """
    import torch

    from hantune.infer.engine import open_engine
    from hantune.infer.scheduler import Scheduler
    from hantune.serve.served import Served, names

    kind = None if dtype is Precision.auto else getattr(torch, dtype.value)
    try:
        engine = open_engine(model, base=base, dtype=kind, load=load)
        for name, folder in adapters.items():
            engine.load_adapter(name, folder)
        engine.get_ready()
    except Exception as error:
        if isinstance(error, HantuneError) or not is_out_of_memory(error):
            raise
        raise MachineError(
            "machine.out-of-memory", "内存不够, 模型装不进去", place=model, hint=LESS.get(load or "full")
        ) from error
    offered = names(model, engine)
    return Served(engine=engine, scheduler=Scheduler(engine, max_batch=max_batch, max_queue=max_queue), models=offered)


def _weights(engine: Engine) -> str:
    """How much memory the weights take, and where."""
    from hantune.models.footprint import held_bytes

    where = "显存" if engine.model.device.type == "cuda" else "内存"
    precision = str(engine.model.dtype).removeprefix("torch.")
    return f"{size(held_bytes(engine.model))} {where} ({precision})"


def _introduce(served: Served, host: str, port: int, keys: list[str], *, is_new: bool) -> None:
    """What is served, where, with which key, and how to try it."""
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    address = f"http://{shown}:{port}"
    console.say(f"模型  {', '.join(served.models)}")
    # What a packed base takes was said when it was packed.
    weights = f"权重  {_weights(served.engine)}; " if served.engine.load == "full" else ""
    console.say(f"{weights}上下文 {served.engine.limit or '不限'} 个词元")
    console.say(f"地址  {address}  (聊天网页 {address}/, OpenAI 接口 {address}/v1, 说明 {address}/docs)")
    if is_new:
        # Also under --quiet: nobody could use the server otherwise.
        sys.stderr.write(f"密钥  {keys[0]}  (这次生成的, 只显示这一次; 用 --api-key 可以自己定)\n")
        sys.stderr.flush()
    else:
        console.say("密钥  " + ("启动时给的" if keys else "不要 (只有这台机器能连)"))
    header = " -H 'Authorization: Bearer 密钥'" if keys else ""
    body = f'{{"model": "{served.main}", "messages": [{{"role": "user", "content": "你好"}}]}}'
    console.say(f"试试  curl {address}/v1/chat/completions{header} -H 'Content-Type: application/json' -d '{body}'")


def _ending(served: Served, ended_by: int | None) -> Answer:
    """What became of the answers.

    Raises: MachineError ``serve.died``.
    """
    if ended_by is None:
        raise MachineError(
            "serve.died", "生成回答的线程意外结束, 服务停了", hint="再启动一次; 又发生就加 --debug, 把输出发给维护者"
        )
    stats = served.scheduler.stats()
    cut = stats.finished.get("cancelled", 0)
    text = f"已停止: 答完 {stats.finished.get('stop', 0) + stats.finished.get('length', 0)} 个, 取消 {cut} 个"
    result = {"finished": dict(stats.finished), "completion_tokens": stats.completion_tokens}
    return Answer(result=result, text=text, exit_code=128 + ended_by)


def _vllm(
    model: str,
    base: str | None,
    adapters: dict[str, Path],
    host: str,
    port: int,
    keys: list[str],
    *,
    is_new: bool,
    load: str | None,
    dtype: Precision,
    max_batch: int,
    cors: list[str],
) -> Answer:
    """vLLM until it ends."""
    from hantune.serve import vllm
    from hantune.serve.served import public_name

    words = vllm.command(
        vllm.find_vllm(), model, name=public_name(model), base=base, adapters=adapters, host=host, port=port, load=load,
        dtype=dtype.value, max_batch=max_batch, cors=cors,
    )  # fmt: skip
    if len(keys) > 1:
        console.warn("vLLM 只用第一个密钥")
    if is_new:
        sys.stderr.write(f"密钥  {keys[0]}\n")
    console.say(" ".join(words))
    return Answer(result={"command": words}, exit_code=vllm.run(words, keys))
