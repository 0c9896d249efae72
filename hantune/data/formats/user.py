"""A user's own format: one Python function in a file of his, named on the command line and nowhere else.

``--format ./my_format.py:read``; ``read(record)`` gives a conversation as a list of ``{"role", "content"}``, several
as a list of such lists, or None for a record to be left out. A name that stands in a configuration or lies in a data
folder never runs code: ``get_format`` knows only what ``from_command_line`` has loaded in this process.
"""

from __future__ import annotations

import hashlib
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from hantune.data.formats import messages
from hantune.data.formats.common import reject
from hantune.data.types import Conversation, Reject, Row
from hantune.errors import ConfigError

_NAME = re.compile(r"(?P<path>.+\.py):(?P<function>[A-Za-z_]\w*)(?:@(?P<hash>[0-9a-f]{12}))?")


@dataclass(slots=True)
class UserFormat:
    """A format like those of this package; ``NAME`` ends with the fingerprint of the file's bytes."""

    NAME: str
    path: Path
    function: Callable[[Any], Any]
    SHAPE: str = "你自己的格式"
    NEEDS: tuple[tuple[str, ...], ...] = ()

    def matches(self, value: Any) -> str | None:
        """Never: it is used where it is named."""
        return None

    def read(self, row: Row) -> Iterator[Conversation | Reject]:
        """What the function makes of a record, held to the rules of every conversation."""
        try:
            result = self.function(row.value)
            found = result if result is None else list(result)
        except Exception as error:  # whatever a stranger's code raises is a fault of this record
            yield reject(row, "format.user-error", f"{type(error).__name__}: {error} ({self._line(error)})")
            return
        if found is None:
            yield reject(row, "format.user-skipped", "自己的格式没有要这一条 (返回了 None)")
            return
        for conversation in [found] if found and isinstance(found[0], dict) else found:
            if isinstance(conversation, list) and conversation:
                yield from messages.read(Row(value=conversation, source=row.source))
            else:
                yield reject(row, "format.user-error", '应当返回 [{"role": ..., "content": ...}, ...] 或者它们的列表')

    def _line(self, error: Exception) -> str:
        """The last line of the user's file that the error passed through."""
        lines = [
            frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == self.path
        ]
        return f"{self.path.name}:{lines[-1]}" if lines else self.path.name


LOADED: dict[str, UserFormat] = {}
"""name -> format, of those that this command named."""


def is_user_format(name: str | None) -> bool:
    """Whether a format's name means a function in a file."""
    return bool(name and _NAME.fullmatch(name))


def from_command_line(name: str | None) -> str | None:
    """The name under which ``get_format`` now knows the format: ``./my_format.py:read@1a2b3c4d5e6f``; others unchanged.

    Call it with what was typed, never with what a file says: the file named here is run.
    Raises: ConfigError ``format.user-code``.
    """
    match = _NAME.fullmatch(name or "")
    if not name or not match:
        return name
    path, short = Path(match["path"]).expanduser(), f"{match['path']}:{match['function']}"
    if not path.is_file():
        raise _refused(name, f"没有这个文件: {path}", "写成 --format ./my_format.py:read")
    code = path.read_bytes()
    fingerprint = hashlib.sha256(code).hexdigest()[:12]
    if match["hash"] and match["hash"] != fingerprint:
        raise _refused(name, f"{path} 改过了, 和当时整理用的不是同一份", f"--format {short}")
    function = getattr(_run(name, path, code), match["function"], None)
    if not callable(function):
        hint = f"在里面写 def {match['function']}(record): ..."
        raise _refused(name, f"{path} 里没有叫 {match['function']} 的函数", hint)
    full = f"{short}@{fingerprint}"
    LOADED[full] = UserFormat(full, path, function)
    return full


def _run(name: str, path: Path, code: bytes) -> ModuleType:
    """The module, after its code ran."""
    module = ModuleType(f"hantune_user_format_{path.stem}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses and pickle look their module up by name
    try:
        exec(compile(code, str(path), "exec"), module.__dict__)  # noqa: S102 - the user named this file himself
    except (Exception, SystemExit) as error:
        line = traceback.extract_tb(error.__traceback__)[-1].lineno
        where = error.lineno if isinstance(error, SyntaxError) else line
        raise _refused(
            name, f"{path.name}:{where} 运行出错: {type(error).__name__}: {error}", f"先试 python {path}"
        ) from error
    return module


def _refused(name: str, message: str, hint: str) -> ConfigError:
    return ConfigError("format.user-code", message, place=f"--format {name}", hint=hint)


def only_on_the_command_line(name: str) -> ConfigError:
    """The error for such a name that was not typed."""
    return _refused(name, "自己的格式是要运行的代码, 只能写在命令行上", f"hantune data prepare ... --format {name}")
