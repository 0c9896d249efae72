"""A chat in the terminal, over any reader and writer."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from hantune.data.types import Message, Rendered
from hantune.errors import ConfigError, HantuneError
from hantune.infer.engine import Completion, Engine
from hantune.infer.sample import SamplingParams
from hantune.infer.settings import SETTINGS
from hantune.paths import write_file

Reader = Callable[[str], str]
"""``input``: shows the prompt and returns a line; EOFError ends the chat."""
Writer = Callable[[str], None]
"""Text as it comes, no newline added."""

ASK, REPLY, BASE_REPLY = "你> ", "答> ", "底座> "
COMMANDS = {
    "/help": "显示这些命令",
    "/clear": "忘掉前面的对话, 重新开始 (/reset 也行)",
    "/system 文字": "换系统提示并重新开始; 不写文字 = 去掉系统提示",
    "/retry": "最后一个问题重新回答一次",
    "/undo": "撤回最后一问一答",
    "/base": "看没有适配器的底座怎么回答最后一个问题 (只作比较, 不记入对话)",
    "/why": "看最后一次发给模型的原文, 停止符, 参数, 为什么停下",
    "/params 名=值": "改采样参数, 如 /params temperature=0.8; 不写 = 显示现在的",
    "/save 文件": "把对话存成文件, 可以再用 hantune data prepare 读",
    "/exit": "结束 (Ctrl-D 也行). 回答时按 Ctrl-C 只停下那个回答",
}
OTHER_NAMES = {"/reset": "/clear", "/quit": "/exit"}
CONTROLS = {code: "?" for code in [*range(32), *range(127, 160)] if chr(code) not in "\n\t"}
"""What a model's text may not send to a terminal: it could move the cursor, or type."""


@dataclass(frozen=True)
class _Asked:
    """What the last answer came from. ``end``: None where it was stopped by Ctrl-C."""

    rendered: Rendered
    prompt_tokens: int
    params: SamplingParams
    end: Completion | None
    is_base: bool


def banner(engine: Engine) -> str:
    """What is talked to: model, adapter, template, and how to get help."""
    lines = [f"模型    {engine.name or type(engine.model).__name__}"]
    lines.append(f"适配器  {engine.adapter or '没有'}")
    lines.append(f"模板    {engine.template.name}")
    return "\n".join([*lines, "输入问题后按回车; /help 看全部命令, /exit 结束", ""])


class ChatSession:
    """One chat. ``history`` is the whole of it, an optional system message first; the model sees what fits."""

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
        self._forgotten = 0
        self._last: _Asked | None = None
        self._commands: dict[str, Callable[[str], None]] = {
            "/help": self._help, "/clear": self._clear, "/system": self._set_system, "/retry": self._retry,
            "/undo": self._undo, "/base": self._base, "/why": self._why, "/params": self._params, "/save": self._save,
        }  # fmt: skip
        self._start_over(system)

    def run(self) -> None:
        """Banner, then questions and answers until ``/exit``, the end of input or Ctrl-C twice at the prompt."""
        self._write(banner(self.engine))
        is_leaving = False
        while True:
            try:
                line = self._read(ASK).strip()
            except EOFError:
                self._write("\n")
                return
            except KeyboardInterrupt:
                self._write("\n")
                if is_leaving:
                    return
                is_leaving = True
                self._tell("再按一次 Ctrl-C 就结束")
                continue
            is_leaving = False
            if OTHER_NAMES.get(line, line) == "/exit":
                return
            if line:
                try:
                    self.obey(line)
                except KeyboardInterrupt:
                    self._write("\n")

    def obey(self, line: str) -> None:
        """One line: a command, or a question (``//`` in front asks a question that begins with ``/``)."""
        if line.startswith("／"):  # what a Chinese keyboard types
            line = "/" + line[1:]
        try:
            if not line.startswith("/"):
                self._ask(line)
            elif line.startswith("//"):
                self._ask(line[1:])
            else:
                word, _, rest = line.partition(" ")
                command = self._commands.get(OTHER_NAMES.get(word, word))
                command(rest.strip()) if command else self._unknown(word)
        except HantuneError as error:
            hint = f"  {error.hint}" if error.hint else ""
            self._tell(f"{error.message}.{hint}")

    # ---- questions and answers ---------------------------------------------------------------------------------------

    def _ask(self, question: str) -> None:
        """Ask; without any answer the question is taken back."""
        self.history.append(Message(role="user", text=question))
        text = ""
        try:
            text = self._answer(self.params)
        finally:
            if text:
                self.history.append(Message(role="assistant", text=text))
            else:
                self.history.pop()

    def _answer(self, params: SamplingParams, *, is_base: bool = False) -> str:
        """The answer to the last question, written as it comes; Ctrl-C stops it and keeps what was said."""
        messages = self._fitted(params)
        prompt = self.engine.prompt_ids(messages)
        if refusal := self.engine.refusal(prompt):
            raise refusal
        self._write(BASE_REPLY if is_base else REPLY)
        spoken: list[str] = []
        ends: list[Completion] = []
        try:
            for text in keeping(self.engine.stream(messages, params), ends):
                spoken.append(text)
                self._write(printable(text))
        except KeyboardInterrupt:
            pass
        finally:
            end = ends[0] if ends else None
            self._write(_note(end) + "\n")
        self._last = _Asked(self.engine.render(messages), len(prompt), params, end, is_base)
        return "".join(spoken).strip()

    def _fitted(self, params: SamplingParams) -> list[Message]:
        """What of the history the model can be shown; says so when more of it had to be left out."""
        first = 1 if self._system() is not None else 0
        shown = [*self.history[:first], *self.history[first + self._forgotten :]]
        fitted = self.engine.fit(shown, params)
        if len(fitted) < len(shown):
            self._forgotten += len(shown) - len(fitted)
            self._tell(f"对话太长, 模型已看不到最前面的 {self._forgotten // 2} 轮 (/clear 重新开始)")
        return fitted

    # ---- commands ----------------------------------------------------------------------------------------------------

    def _tell(self, text: str) -> None:
        self._write(f"  {text}\n")

    def _unknown(self, word: str) -> None:
        near = difflib.get_close_matches(word, [*self._commands, *OTHER_NAMES, "/exit"], n=1)
        self._tell(f"没有这个命令: {word}" + (f"  是不是 {near[0]}?" if near else ""))
        self._tell("/help 看全部命令; 问题以 / 开头时写成 //")

    def _help(self, rest: str) -> None:
        self._write(_table(COMMANDS))

    def _start_over(self, system: str | None) -> None:
        self.history = [Message(role="system", text=system)] if system else []
        self._forgotten = 0

    def _clear(self, rest: str) -> None:
        self._start_over(self._system())
        self._tell("前面的对话已忘掉")

    def _system(self) -> str | None:
        return self.history[0].text if self.history and self.history[0].role == "system" else None

    def _set_system(self, text: str) -> None:
        self._start_over(text)
        self._tell(f"系统提示: {text}" if text else "已去掉系统提示")

    def _has_answer(self) -> bool:
        """Whether there is a last question with its answer; says so if not."""
        is_there = bool(self.history) and self.history[-1].role == "assistant"
        if not is_there:
            self._tell("还没有问过问题")
        return is_there

    def _again(self, params: SamplingParams, *, is_base: bool = False) -> str:
        """Another answer to the last question; the history stays as it is."""
        kept = self.history
        self.history = kept[:-1]
        try:
            return self._answer(params, is_base=is_base)
        finally:
            self.history = kept

    def _retry(self, rest: str) -> None:
        if not self._has_answer():
            return
        if self.params.is_greedy:
            self._tell("temperature 是 0, 再答也是同一句; 想要别的说法先写 /params temperature=0.8")
        self._tries += 1
        seed = self.params.seed
        text = self._again(self.params if seed is None else replace(self.params, seed=seed + self._tries))
        if text:
            self.history[-1] = Message(role="assistant", text=text)

    def _undo(self, rest: str) -> None:
        if not self._has_answer():
            return
        question = self.history[-2].text
        del self.history[-2:]
        self._forgotten = 0
        self._tell(f"已撤回: {question}")

    def _base(self, rest: str) -> None:
        if self.engine.adapter is None:
            self._tell("这里没有适配器, 没有另一个底座可比; 想比就另开一个: hantune chat 底座文件夹")
        elif self._has_answer():
            with self.engine.without_adapter():
                self._again(self.params, is_base=True)

    def _why(self, rest: str) -> None:
        last = self._last
        if last is None:
            self._tell("还没有问过问题")
            return
        self._write(f"{printable(last.rendered.text)}\n")
        who = "底座" if last.is_base else "模型"
        self._tell(f"以上是发给{who}的原文: {last.prompt_tokens} 个词元, 模板 {self.engine.template.name}")
        self._tell("停止符  " + "  ".join(map(repr, [*last.rendered.stops, *last.params.stops])))
        self._tell("参数    " + "  ".join(_in_force(last.params)))
        self._tell(f"停下    {_reason(last.end)}")

    def _params(self, rest: str) -> None:
        if rest:
            self.params = changed(self.params, rest)
        shown = {f"{name}={value}": SETTINGS[name].meaning for name, value in _settings(self.params).items()}
        self._write(_table(shown))

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


def changed(params: SamplingParams, text: str) -> SamplingParams:
    """``params`` after ``名=值 名=值``.

    Raises: ConfigError ``infer.sampling``.
    """
    values: dict[str, int | float | None] = {}
    for word in text.split():
        name, _, value = word.partition("=")
        setting = SETTINGS.get(name)
        if setting is None:
            near = difflib.get_close_matches(name, SETTINGS, n=1)
            guess = f", 是不是 {near[0]}?" if near else ""
            raise ConfigError("infer.sampling", f"没有叫 {name!r} 的参数{guess}", hint="/params 看全部")
        try:
            values[setting.field] = None if name == "seed" and value == "none" else setting.kind(value)
        except ValueError:
            kinds = "整数" if setting.kind is int else "数"
            raise ConfigError(
                "infer.sampling", f"{name} 要写成 {name}={kinds}, 不是 {word!r}", place=name, hint=setting.meaning
            ) from None
    return replace(params, **values)  # type: ignore[arg-type]


def _settings(params: SamplingParams) -> dict[str, str]:
    """What ``/params`` shows, by the names that it takes."""
    values = {name: getattr(params, setting.field) for name, setting in SETTINGS.items()}
    return {name: "none" if value is None else str(value) for name, value in values.items()}


def _in_force(params: SamplingParams) -> list[str]:
    """The settings that matter: length and temperature, and what is not at its default."""
    usual, always = _settings(SamplingParams()), ("max_new_tokens", "temperature")
    return [f"{name}={value}" for name, value in _settings(params).items() if name in always or value != usual[name]]


def _table(rows: Mapping[str, str]) -> str:
    """Two columns, aligned where a Han character takes two."""
    width = max(len(name) + sum(not character.isascii() for character in name) for name in rows) + 2
    lines = []
    for name, meaning in rows.items():
        wide = sum(not character.isascii() for character in name)
        lines.append(f"  {name.ljust(width - wide)}{meaning}\n")
    return "".join(lines)


def printable(text: str) -> str:
    """A model's text without what would move a terminal's cursor, or type."""
    return text.translate(CONTROLS)


def keeping(answer: Generator[str, None, Completion], ends: list[Completion]) -> Iterator[str]:
    """The pieces of an answer; what it ended with goes to ``ends``."""
    ends.append((yield from answer))


def _note(end: Completion | None) -> str:
    """What the reader must know about an answer that looks odd."""
    if end is None:
        return "  (已停下)"
    if end.finish_reason == "length":
        return "  (到了长度上限)"
    return "" if end.text else "(空回答)"


def _reason(end: Completion | None) -> str:
    """Why the last answer ended, and how long it was."""
    if end is None:
        return "被 Ctrl-C 停下"
    why = "模型自己说完 (stop)" if end.finish_reason == "stop" else "到了长度上限 (length)"
    return f"{why}, 回答 {len(end.ids)} 个词元"
