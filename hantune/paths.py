"""Where things lie on disk, and how they get there: whole or not at all.

``RunFolder`` names the parts of a run (design section 7). ``write_file`` and ``new_folder`` write under a temporary
name, fsync, rename, and fsync the parent (the order that survives a crash: Pillai et al., OSDI 2014).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import platform
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hantune.errors import HantuneError, MachineError, RunError

TEMPORARY = ".tmp-"
"""Prefix of names that are not finished; whoever finds one may delete it."""


@dataclass(frozen=True)
class RunFolder:
    """The parts of ``RUN/``."""

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "config.yaml"

    @property
    def env(self) -> Path:
        return self.root / "env.json"

    @property
    def plan(self) -> Path:
        return self.root / "plan.json"

    @property
    def events(self) -> Path:
        return self.root / "events.jsonl"

    @property
    def log(self) -> Path:
        return self.root / "log.txt"

    @property
    def samples(self) -> Path:
        return self.root / "samples.jsonl"

    @property
    def report(self) -> Path:
        return self.root / "report.html"

    @property
    def evaluation(self) -> Path:
        return self.root / "evaluation.json"

    @property
    def prepared(self) -> Path:
        return self.root / "prepared"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def adapter(self) -> Path:
        return self.root / "adapter"

    @property
    def model(self) -> Path:
        return self.root / "model"

    @property
    def merged(self) -> Path:
        return self.root / "merged"

    @property
    def is_run(self) -> bool:
        """Whether a run was ever started here."""
        return self.config.is_file() and self.events.is_file()

    @property
    def has_result(self) -> bool:
        """Whether the run came to an adapter or a model."""
        return self.adapter.is_dir() or self.model.is_dir()

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder alone. The lock dies with the process, so a killed run never leaves it locked.

        Raises: RunError ``run.in-use`` when another live process holds it.
        """
        path = self.root / ".lock"
        with disk_errors(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if not _try_lock(handle):
                holder = path.read_text(encoding="utf-8").strip() or "另一个进程"
                raise RunError(
                    "run.in-use",
                    f"这个运行文件夹正被占用: {holder}",
                    place=str(self.root),
                    hint="等它结束, 或者换一个文件夹 (训练: train.output_dir=runs/另一个名字; 其他命令: --out)",
                )
            with disk_errors(self.root):
                os.ftruncate(handle, 0)
                os.write(handle, f"进程 {os.getpid()} @ {platform.node()}".encode())
            yield
        finally:
            os.close(handle)


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold one growing file alone; it is made if it is not there.

    Raises: RunError ``run.in-use`` when another live process holds it.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if not _try_lock(handle) or not path.exists():
            raise RunError(
                "run.in-use",
                "另一个进程正在写这个文件",
                place=str(path),
                hint="等它结束再运行同一条命令, 或者换一个 --output",
            )
        yield
    finally:
        os.close(handle)


def _try_lock(handle: int) -> bool:
    """Take an exclusive lock without waiting; False when somebody else has it."""
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined, unused-ignore]
        except OSError:
            return False
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def free_run_folder(wanted: Path) -> RunFolder:
    """``wanted``, or the first of ``wanted-2``, ``wanted-3`` ... without a run: none is ever written over.

    Raises: RunError ``run.in-use`` when a run is going on in one of them: two by one name are hardly meant.
    """
    folder = RunFolder(wanted)
    number = 2
    while folder.is_run:
        with folder.lock():
            pass
        folder = RunFolder(wanted.with_name(f"{wanted.name}-{number}"))
        number += 1
    return folder


def latest_run(root: Path = Path("runs")) -> RunFolder | None:
    """The run under ``root`` that was written to last, one with a result before any without; or None."""
    runs = [RunFolder(path) for path in root.iterdir() if RunFolder(path).is_run] if root.is_dir() else []
    return max(runs, key=lambda run: (run.has_result, run.events.stat().st_mtime), default=None)


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full disk into ``machine.disk-full`` and a refused write into ``machine.no-write``."""
    try:
        yield
    except Exception as error:
        problem = None if isinstance(error, HantuneError) else file_problem(error, path)
        if problem is None:
            raise
        raise problem from error


REFUSALS = {
    errno.EACCES: "这里没有权限读写",
    errno.EPERM: "这里没有权限读写",
    errno.EROFS: "这里是只读的",
    errno.ENOTDIR: "路径中间有一段是文件, 不是文件夹",
    errno.EEXIST: "这个名字已经是一个文件",
    errno.EISDIR: "这是一个文件夹, 不是文件",
    errno.ENAMETOOLONG: "名字太长",
}
"""Why the system refuses a path."""


def file_problem(error: Exception, path: Path | None = None) -> MachineError | None:
    """What a full disk or a refused access is called, else None. ``path``: where, if the error does not say it."""
    number = _system_error(error)
    place = path or Path(getattr(error, "filename", None) or ".")
    if number in (errno.ENOSPC, errno.EDQUOT):
        return MachineError(
            "machine.disk-full",
            f"磁盘满了: 只剩 {shutil.disk_usage(_existing(place)).free / 2**20:.0f} MB. "
            "没写完的部分已删掉, 之前的结果都还在",
            place=str(place),
            hint="腾出空间后再运行同一条命令 (训练用 hantune resume 接着练)",
        )
    why = REFUSALS.get(number or 0)
    if why is None:
        return None
    hint = f"看看它是什么: ls -ld {quoted(_existing(place))}; 或者换一个自己能读写的文件夹"
    return MachineError("machine.no-write", why, place=str(place), hint=hint)


def quoted(path: Path | str) -> str:
    """A path as it can be typed in a shell: in quotes where it holds blanks or signs that a shell would read."""
    text = str(path)
    if re.fullmatch(r"[\w@%+=:,./~-]+", text):  # Han characters need no quotes
        return text
    return "'" + text.replace("'", "'\\''") + "'"


def _system_error(error: Exception) -> int | None:
    """The errno of an error; safetensors and other Rust libraries hide it in their text as ``(os error 28)``."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"os error (\d+)", str(error))
    return int(found.group(1)) if found else None


def _existing(path: Path) -> Path:
    """The nearest parent that exists."""
    while not os.path.exists(path):  # unlike Path.exists it bears names that are too long
        path = path.parent
    return path


def write_file(path: Path, data: bytes | str, *, mode: int = 0o666) -> None:
    """Write a whole file or nothing: temporary name, fsync, rename, fsync of the folder.

    ``mode``: who may read it, from its first byte on (less the umask); 0o600 for what is private.
    Raises: MachineError ``machine.disk-full``, ``machine.no-write``; the old content stays then.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{TEMPORARY}{path.name}-{os.getpid()}")
        temporary.unlink(missing_ok=True)
        try:
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
                file.write(data.encode() if isinstance(data, str) else data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def json_bytes(value: Any) -> bytes:
    """Readable JSON with sorted keys: equal values give equal bytes."""
    return json.dumps(value, ensure_ascii=False, indent=2, sort_keys=True).encode() + b"\n"


def write_json(path: Path, value: Any) -> None:
    """Write ``json_bytes(value)`` atomically."""
    write_file(path, json_bytes(value))


@contextlib.contextmanager
def new_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """A temporary folder that becomes ``path`` when the block ends well, and vanishes when it does not.

    Raises: RunError ``run.exists`` when ``path`` holds something and ``replace`` is not set;
        MachineError ``machine.disk-full``.
    """
    if path.is_file():
        raise RunError("run.exists", "这个名字已经是一个文件", place=str(path), hint="换一个 --out")
    if path.exists() and not replace and any(path.iterdir()):
        raise RunError("run.exists", "文件夹里已经有东西", place=str(path), hint="换一个 --out, 或先移走它")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path)
        temporary = path.with_name(f"{TEMPORARY}{path.name}-{os.getpid()}")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        try:
            with _alone(temporary):
                yield temporary
                sync_tree(temporary)
                remove_folder(path)
                os.replace(temporary, path)
                sync_folder(path.parent)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def sweep(path: Path) -> None:
    """Delete what processes that were killed while they wrote ``path`` left beside it.

    A folder or file is left over where its process is gone from this machine and nobody, on this or another one,
    holds it. Call it only where no other process may be writing ``path`` just now.
    """
    name = re.compile(rf"{re.escape(TEMPORARY)}(?:del-)?{re.escape(path.name)}-(\d+)")
    for left in path.parent.iterdir():
        match = name.fullmatch(left.name)
        if match and not _is_alive(int(match[1])):
            with _alone(left) as is_ours:
                if is_ours and left.is_dir():
                    shutil.rmtree(left, ignore_errors=True)
                elif is_ours:
                    left.unlink(missing_ok=True)


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[bool]:
    """Whether the folder or file could be taken for this process alone; False too where that cannot be (Windows)."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        yield False
        return
    try:
        yield _try_lock(handle)
    finally:
        os.close(handle)


def _is_alive(pid: int) -> bool:
    """Whether a process of this number runs here; taken for granted where asking would end it (Windows)."""
    if os.name != "posix":
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def remove_folder(path: Path) -> None:
    """Delete a folder so that a kill half-way leaves no torn one under its real name."""
    if not path.exists():
        return
    doomed = path.with_name(f"{TEMPORARY}del-{path.name}-{os.getpid()}")
    os.replace(path, doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def sync_tree(folder: Path) -> None:
    """fsync every file below ``folder`` and the folders themselves."""
    for root, _, names in os.walk(folder):
        for name in names:
            with (Path(root) / name).open("rb") as file:
                os.fsync(file.fileno())
        sync_folder(Path(root))


def sync_folder(folder: Path) -> None:
    """Make renames in ``folder`` durable; a no-op where folders cannot be opened (Windows)."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)


def sha256_file(path: Path) -> str:
    """The sha256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _sha256(file)


def _sha256(file: Any) -> str:
    """``hashlib.file_digest`` for Python 3.10."""
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()
