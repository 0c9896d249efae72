"""What every command shares: lazy verbs, ``--json --quiet --debug``, errors to text, exit codes."""

from __future__ import annotations

import codecs
import contextlib
import errno
import importlib
import inspect
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from hantune import __version__
from hantune.cli.help import COMMAND, OPTIONS, Command, Group
from hantune.cli.usage import usage_error
from hantune.env import set_library_defaults
from hantune.errors import HantuneError, Interrupted, MachineError, is_out_of_memory
from hantune.log import console
from hantune.paths import file_problem

UsageError = typer.BadParameter.__base__
"""typer keeps its copy of click's exceptions private; this is the public way to their root."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a command found: ``result`` for ``--json``, ``text`` for people (stdout); ``exit_code`` is rarely not 0."""

    result: dict[str, Any] = field(default_factory=dict)
    text: str = ""
    exit_code: int = 0
    error: HantuneError | None = None


def new_app(help_text: str) -> typer.Typer:
    """A typer app in plain style: no rich panels (they cost 0.3 s), no completion options; help in Chinese."""
    return typer.Typer(
        cls=Group,
        help=help_text,
        options_metavar=OPTIONS,
        subcommand_metavar=COMMAND,
        rich_markup_mode=None,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def command(app: typer.Typer, name: str, **settings: Any) -> Callable[[Callable[..., Answer]], Callable[..., Any]]:
    """Register ``function`` as ``name`` with ``--json --quiet --debug`` added; it returns an ``Answer`` or raises.

    The full command (``data prepare``) is taken from typer's context for the JSON object. ``~`` in paths is the home.
    """

    def decorate(function: Callable[..., Answer]) -> Callable[..., Any]:
        @wraps(function)
        def run(context: typer.Context, as_json: bool, quiet: bool, debug: bool, **arguments: Any) -> None:
            words = context.command_path.split()[1:]
            arguments = {n: v.expanduser() if isinstance(v, Path) else v for n, v in arguments.items()}
            raise typer.Exit(_perform(" ".join(words), as_json, quiet, debug, lambda: function(**arguments)))

        signature = inspect.signature(function, eval_str=True)
        keyword = inspect.Parameter.KEYWORD_ONLY
        extra = [
            ("context", typer.Context, inspect.Parameter.empty),
            ("as_json", Annotated[bool, typer.Option("--json", help="在标准输出打印一个 JSON 对象")], False),
            ("quiet", Annotated[bool, typer.Option("--quiet", "-q", help="不显示进度")], False),
            ("debug", Annotated[bool, typer.Option("--debug", help="出错时显示完整的调用栈")], False),
        ]
        parameters = [item.replace(kind=keyword) for item in signature.parameters.values()]
        parameters += [inspect.Parameter(n, keyword, annotation=a, default=d) for n, a, d in extra]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {item.name: item.annotation for item in parameters}
        app.command(name, cls=Command, options_metavar=OPTIONS, **settings)(run)
        return function

    return decorate


def _perform(words: str, as_json: bool, quiet: bool, debug: bool, work: Callable[[], Answer]) -> int:
    """Do the work, print its answer or its error in the asked form; returns the exit code."""
    console.quiet, console.debug = quiet or (as_json and not console.is_terminal), debug
    console.may_ask, console.as_json = not (quiet or as_json), as_json
    console.warnings.clear()
    set_library_defaults()
    try:
        with _sigterm_cleans_up():
            answer = work()
    except BrokenPipeError:
        return 1
    except (Exception, KeyboardInterrupt, _Terminated) as error:
        known = _known(error, words)
        answer = Answer(error=known, exit_code=known.exit_code)
    if debug and answer.error is not None:
        traceback.print_exception(answer.error, file=sys.stderr)
    _print(words, as_json, answer)
    console.quiet = console.debug = console.may_ask = console.as_json = False
    return answer.exit_code


class _Terminated(SystemExit):
    """SIGTERM has come; no ``except Exception`` on the way holds it up, every ``finally`` cleans up."""


@contextlib.contextmanager
def _sigterm_cleans_up() -> Iterator[None]:
    """SIGTERM ends the work as Ctrl-C does, so that nothing half-written stays behind."""

    def end(number: int, frame: Any) -> None:
        raise _Terminated(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _known(error: BaseException, words: str = "") -> HantuneError:
    """The error in the user's language: a fault of hantune itself is told too, with the line it came from."""
    if isinstance(error, HantuneError):
        return error
    if isinstance(error, (KeyboardInterrupt, EOFError, _Terminated)):
        number = signal.SIGTERM if isinstance(error, _Terminated) else signal.SIGINT
        hint = "有检查点就接着练: hantune resume 运行文件夹; 没有就" if words == "train" else ""
        return Interrupted(number, "已中断", hint=hint + "再运行同一条命令")
    if isinstance(error, OSError) and (problem := file_problem(error)):
        problem.__cause__ = error
        return problem
    if is_out_of_memory(error):
        hint = "换小一点的模型, 或调小 train.batch_tokens"
        if words in ("batch", "chat"):
            hint = "压成 4 比特: --load 4bit" + ("; 或调小 --batch-size, 已有的回答都留着" if words == "batch" else "")
        return MachineError("machine.out-of-memory", "内存不够", hint=hint)
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else None
    wrapped = HantuneError(
        "internal.unexpected",
        f"没有料到的错误: {type(error).__name__}: {error}",
        place=place,
        hint="加上 --debug 再运行一次, 把输出发给维护者",
    )
    wrapped.__cause__ = error
    return wrapped


def _print(words: str, as_json: bool, answer: Answer) -> None:
    """One JSON object, or the text and the error in four lines."""
    with contextlib.suppress(BrokenPipeError):
        if as_json:
            envelope = {
                "ok": answer.error is None and answer.exit_code == 0,
                "command": words,
                "result": answer.result,
                "warnings": list(console.warnings),
                "error": answer.error.as_dict() if answer.error else None,
            }
            # what a GBK console cannot show would be lost as "?"; \\u4f60 is the same text to every JSON reader
            write_out(json.dumps(envelope, ensure_ascii=not _is_utf8(sys.stdout.encoding)) + "\n")
            return
        if answer.text:
            write_out(answer.text.rstrip("\n") + "\n")
        if answer.error is not None:
            print_error(answer.error)


def _is_utf8(encoding: str | None) -> bool:
    return codecs.lookup(encoding or "utf-8").name == "utf-8"


def write_out(text: str) -> None:
    """Text to stdout; a GBK console gets ``?`` for what it cannot show instead of a traceback."""
    _write(sys.stdout, text)


def write_err(text: str) -> None:
    """Text to stderr, likewise."""
    _write(sys.stderr, text)


def _write(stream: TextIO, text: str) -> None:
    encoding = stream.encoding or "utf-8"
    stream.write(text.encode(encoding, "replace").decode(encoding, "replace"))
    stream.flush()


def print_error(error: HantuneError) -> None:
    """The error on stderr: code and cause, place, what mends it, where to read more."""
    lines = [f"错误  {error.code}", f"原因  {error.message}"]
    if error.place:
        lines.append(f"位置  {error.place}")
    if error.hint:
        lines.append(f"办法  {error.hint}")
    lines.append(f"更多  docs/troubleshooting/{error.code}.md")
    write_err("\n".join(lines) + "\n")


class LazyGroup(Group):
    """A group that imports a verb's module only when that verb is called."""

    verbs: Mapping[str, tuple[str, str]] = {}

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.verbs)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in self.verbs:
            return None
        module = importlib.import_module(self.verbs[cmd_name][0])
        loaded = typer.main.get_command(module.app)
        loaded.name = cmd_name
        return loaded

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("命令"):
            formatter.write_dl([(name, line) for name, (_, line) in self.verbs.items()])


def run_app(verbs: Mapping[str, tuple[str, str]], argv: list[str]) -> int:
    """Parse ``argv``, run the verb, and turn every way of ending into an exit code."""
    _prepare_streams()
    root = _root(verbs)
    as_json = "--json" in argv
    try:
        code = root.main(args=argv or ["--help"], prog_name="hantune", standalone_mode=False)
        return int(code or 0)
    except UsageError as error:  # type: ignore[misc]
        wrapped = usage_error(error, argv)
        _print(" ".join(word for word in argv[:2] if not word.startswith("-")), as_json, Answer(error=wrapped))
        return wrapped.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except OSError as error:  # `> file` on a full disk
        why = "磁盘满了" if error.errno == errno.ENOSPC else "它已经关上"
        refused = MachineError(
            "machine.no-write", f"结果写不出去: {why}", place="标准输出", hint="换一个地方: > 另一个文件"
        )
        print_error(refused)
        return refused.exit_code


def _prepare_streams() -> None:
    """Streams that never raise: a console shows ``?`` for what it lacks; what the caller closed goes nowhere."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115  # lives as long as the process
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure:
            reconfigure(errors="replace")


def _show_version(asked: bool) -> None:
    """``hantune --version``."""
    if asked:
        write_out(f"hantune {__version__}\n")
        raise typer.Exit()


def _root(verbs: Mapping[str, tuple[str, str]]) -> Any:
    """The group behind ``hantune`` itself."""
    app = typer.Typer(
        cls=LazyGroup,
        options_metavar=OPTIONS,
        subcommand_metavar=COMMAND,
        rich_markup_mode=None,
        add_completion=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback()
    def hantune(
        version: Annotated[
            bool, typer.Option("--version", callback=_show_version, is_eager=True, help="显示版本")
        ] = False,
    ) -> None:
        """汉调: 把中文对话变成一个调好, 验证过, 会回答的聊天模型. 没有显卡也能跑, 不上传任何数据.

        第一次用?  hantune demo
        """

    group = typer.main.get_command(app)
    group.verbs = verbs  # type: ignore[attr-defined]
    return group
