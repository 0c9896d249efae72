"""A chat in the terminal, over any reader and writer; and the dialogues of a prompt file."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hantune.data.jsonstream import BrokenValue, parse
from hantune.data.types import Message
from hantune.errors import DataError, HantuneError
from hantune.infer.engine import Completion, Engine
from hantune.infer.sample import SamplingParams
from hantune.paths import write_file

Reader = Callable[[str], str]
"""``input``: shows the prompt and returns a line; EOFError ends the chat."""
Writer = Callable[[str], None]
"""Text as it comes, no newline added."""

ASK, REPLY = "你> ", "答> "
COMMANDS = {
    "/help": "显示这些命令",
    "/reset": "忘掉前面的对话, 重新开始",
    "/system 文字": "换系统提示并重新开始; 不写文字 = 去掉系统提示",
    "/retry": "最后一个问题重新回答一次",
    "/undo": "撤回最后一问一答",
    "/why": "看最后一次发给模型的原文",
    "/base": "看没有适配器的底座怎么回答最后一个问题 (不记入对话)",
    "/save 文件": "把对话存成文件, 可以再用 hantune data prepare 读",
    "/exit": "结束 (Ctrl-D 也行)",
}


def banner(engine: Engine) -> str:
    """What is talked to: model, adapter, template, and how to get help."""
    lines = [f"模型    {engine.name or type(engine.model).__name__}"]
    lines.append(f"适配器  {engine.adapter or '没有'}")
    lines.append(f"模板    {engine.template.name}")
    return "\n".join([*lines, "输入问题后按回车; /help 看全部命令, /exit 结束", ""])


class ChatSession:
    """One chat. ``history`` is what the model is shown, an optional system message first."""

    def __init__(
        self, engine: Engine, params: SamplingParams, *, read: Reader, write: Writer, system: str | None = None
    ) -> None:
        self.engine = engine
        self.params = params
        self.history: list[Message] = []
        self._read = read
        self._write = write
        self._saved: set[Path] = set()
        self._tries = 0
        self._commands: dict[str, Callable[[str], None]] = {
            "/help": self._help, "/reset": self._reset, "/system": self._set_system, "/retry": self._retry,
            "/undo": self._undo, "/why": self._why, "/base": self._base, "/save": self._save,
        }  # fmt: skip
        self._start_over(system)

    def run(self) -> None:
        """Banner, then questions and answers until ``/exit`` or the end of input."""
        self._write(banner(self.engine))
        while True:
            try:
                line = self._read(ASK).strip()
            except (EOFError, KeyboardInterrupt):
                self._write("\n")
                return
            if line == "/exit":
                return
            if line:
                self.obey(line)

    def obey(self, line: str) -> None:
        """One line: a command, or a question (``//`` in front asks a question that begins with ``/``)."""
        try:
            if not line.startswith("/"):
                self._ask(line)
            elif line.startswith("//"):
                self._ask(line[1:])
            else:
                word, _, rest = line.partition(" ")
                self._commands.get(word, self._unknown)(rest.strip())
        except HantuneError as error:
            hint = f"  {error.hint}" if error.hint else ""
            self._tell(f"{error.message}.{hint}")

    def _has_answer(self) -> bool:
        """Whether there is a last question with its answer; says so if not."""
        is_there = bool(self.history) and self.history[-1].role == "assistant"
        if not is_there:
            self._tell("还没有问过问题")
        return is_there

    def _ask(self, question: str) -> None:
        self.history.append(Message(role="user", text=question))
        self._reply()

    def _reply(self) -> None:
        """Answer the last question; without any answer the question is taken back."""
        try:
            fitted = self.engine.fit(self.history, self.params)
            if len(fitted) < len(self.history):
                self._tell(f"对话太长, 已忘掉最前面的 {(len(self.history) - len(fitted)) // 2} 轮")
                self.history = fitted
            text = self._stream(self.params)
        except HantuneError:
            self.history.pop()
            raise
        if text:
            self.history.append(Message(role="assistant", text=text))
        else:
            self.history.pop()

    def _stream(self, params: SamplingParams) -> str:
        """Write the answer as it comes; Ctrl-C stops it and keeps what was said."""
        self._write(REPLY)
        spoken: list[str] = []
        answer = self.engine.stream(self.history, params)
        note = ""
        try:
            while True:
                spoken.append(next(answer))
                self._write(spoken[-1])
        except StopIteration as end:
            note = _note(end.value)
        except KeyboardInterrupt:
            answer.close()
            note = "  (已停下)"
        finally:
            self._write(note + "\n")
        return "".join(spoken).strip()

    def _tell(self, text: str) -> None:
        self._write(f"  {text}\n")

    def _unknown(self, rest: str) -> None:
        self._tell("没有这个命令; /help 看全部命令. 问题以 / 开头时写成 //")

    def _help(self, rest: str) -> None:
        for name, meaning in COMMANDS.items():
            wide = sum(not character.isascii() for character in name)  # a Chinese character takes two columns
            self._write(f"  {name.ljust(15 - wide)}{meaning}\n")

    def _start_over(self, system: str | None) -> None:
        self.history = [Message(role="system", text=system)] if system else []

    def _reset(self, rest: str) -> None:
        self._start_over(self._system())
        self._tell("前面的对话已忘掉")

    def _system(self) -> str | None:
        return self.history[0].text if self.history and self.history[0].role == "system" else None

    def _set_system(self, text: str) -> None:
        self._start_over(text)
        self._tell(f"系统提示: {text}" if text else "已去掉系统提示")

    def _retry(self, rest: str) -> None:
        if not self._has_answer():
            return
        self._tries += 1
        seed = self.params.seed
        params = self.params if seed is None else replace(self.params, seed=seed + self._tries)
        kept = self.history
        self.history = kept[:-1]
        try:
            text = self._stream(params)
            kept = [*kept[:-1], Message(role="assistant", text=text)] if text else kept
        finally:
            self.history = kept

    def _undo(self, rest: str) -> None:
        if not self._has_answer():
            return
        question = self.history[-2].text
        del self.history[-2:]
        self._tell(f"已撤回: {question}")

    def _why(self, rest: str) -> None:
        if not self._has_answer():
            return
        asked = self.history[:-1]
        rendered = self.engine.render(asked)
        self._write(f"{rendered.text}\n")
        stops = "  ".join(map(repr, rendered.stops))
        self._tell(f"共 {len(self.engine.prompt_ids(asked))} 个词元, 模板 {self.engine.template.name}, 停止符 {stops}")

    def _base(self, rest: str) -> None:
        if self.engine.adapter is None:
            self._tell("这里没有适配器, 回答的就是底座自己")
            return
        if not self._has_answer():
            return
        kept = self.history
        self.history = kept[:-1]
        try:
            with self.engine.without_adapter():
                self._stream(self.params)
        finally:
            self.history = kept

    def _save(self, name: str) -> None:
        if not name:
            self._tell("写上文件名: /save 对话.json")
            return
        path = Path(name).expanduser()
        if path.exists() and path not in self._saved:
            self._tell(f"{path} 已经有了, 换一个名字")
            return
        messages = [{"role": message.role, "content": message.text} for message in self.history]
        write_file(path, json.dumps([{"messages": messages}], ensure_ascii=False, indent=2) + "\n")
        self._saved.add(path)
        self._tell(f"已存到 {path}")


def _note(completion: Completion) -> str:
    """What the reader must know about an answer that looks odd."""
    if completion.finish_reason == "length":
        return "  (到了长度上限)"
    return "" if completion.text else "(空回答)"


def read_dialogues(path: Path) -> list[list[Message]]:
    """The dialogues of a prompt file: an array of arrays of ``{"role", "content"}``, each ending with a user.

    Raises: DataError ``infer.prompt-file`` with the number of the dialogue.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _bad_file(path, "没有这个文件" if not path.exists() else f"打不开: {error}") from error
    try:
        value = parse(_decoded(data))
    except BrokenValue as error:
        raise _bad_file(path, str(error)) from error
    if not isinstance(value, list) or not value:
        raise _bad_file(path, "最外层要是一个数组, 里面每段对话又是一个数组")
    return [_dialogue(path, number, item) for number, item in enumerate(value, 1)]


def _decoded(data: bytes) -> str:
    """UTF-8, with or without a mark, else GB18030."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("gb18030", "replace")


def _dialogue(path: Path, number: int, value: Any) -> list[Message]:
    """One dialogue, checked: optional system, then user and assistant in turn, the last a user."""
    if not isinstance(value, list) or not value:
        raise _bad_file(path, "一段对话要是一个非空的数组", number)
    for position, item in enumerate(value, 1):
        is_message = isinstance(item, dict) and {"role", "content"} <= item.keys()
        if not is_message or not isinstance(item["content"], str):
            raise _bad_file(path, f'第 {position} 条消息要写成 {{"role": "user", "content": "文字"}}', number)
    roles = [item["role"] for item in value]
    rest = roles[1:] if roles[0] == "system" else roles
    for position, role in enumerate(rest):
        wanted = ("user", "assistant")[position % 2]
        if role != wanted:
            place = position + len(roles) - len(rest) + 1
            raise _bad_file(path, f"第 {place} 条消息的 role 是 {role!r}, 应当是 {wanted!r}", number)
    if len(rest) % 2 == 0:
        raise _bad_file(path, "最后一条消息要是 user 的问题", number)
    return [Message(role=item["role"], text=item["content"]) for item in value]


def answer_dialogues(
    engine: Engine, dialogues: Sequence[Sequence[Message]], params: SamplingParams
) -> list[Completion]:
    """One answer per dialogue, in order; the oldest turns of one that is too long are left out."""
    return engine.answer_many([engine.fit(dialogue, params) for dialogue in dialogues], params)


def _bad_file(path: Path, what: str, number: int | None = None) -> DataError:
    return DataError(
        "infer.prompt-file",
        what,
        place=str(path) if number is None else f"{path}: 第 {number} 段对话",
        hint='写成 [[{"role": "user", "content": "你好"}], [...]]: 可以先有一条 system, 然后 user 和 assistant 轮流',
    )
