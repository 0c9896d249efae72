"""A model folder in the making that outlives its process: whoever comes next goes on after the last whole file.

It lies beside its goal under a temporary name. A weight file is written under a temporary name too, synced, renamed,
and then noted with its checksum in ``unfinished.json``; only noted files whose bytes still have it are kept.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from hantune.errors import Interrupted, ModelError, RunError
from hantune.models.headers import TensorSpec, read_header
from hantune.models.shards import Advance, TensorOf, write_tensor_file
from hantune.paths import TEMPORARY, RunFolder, disk_errors, remove_folder, sync_folder, sync_tree, write_json

JOURNAL = "unfinished.json"
BLOCK_BYTES = 8 << 20


class Unfinished:
    """The folder at ``path`` and what its journal says is done. ``kept``: bytes that an earlier process wrote."""

    def __init__(self, path: Path, plan: str) -> None:
        self.path = path
        self._plan = plan
        self._done: dict[str, int] = _read_journal(path / JOURNAL, plan)
        self.kept = sum((path / name).stat().st_size for name in self._done if (path / name).is_file())
        self._finisher = ThreadPoolExecutor(1, "finisher")
        self._pending: Future[None] | None = None
        for item in path.iterdir():
            if item.name not in (*self._done, JOURNAL, ".lock"):
                remove_folder(item) if item.is_dir() else item.unlink()

    def write(self, path: Path, specs: Mapping[str, TensorSpec], tensor_of: TensorOf, advance: Advance) -> None:
        """Put one weight file there, unless it is there already, byte for byte: the ``write`` of ``write_tensors``.

        While the disk takes it in, the next may be written; ``settle`` waits for the last.
        """
        if path.name in self._done and path.is_file():
            if checksum(path, specs) == self._done[path.name]:
                advance(sum(spec.num_bytes for spec in specs.values()))
                return
            path.unlink()
        written = _Sum()
        temporary = path.with_name(TEMPORARY + path.name)
        write_tensor_file(temporary, specs, tensor_of, advance, written.add)
        self.settle()
        self._pending = self._finisher.submit(self._finish, temporary, path, written)

    def _finish(self, temporary: Path, path: Path, written: _Sum) -> None:
        """The name and the note, once the bytes are on the disk."""
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        self._done[path.name] = written.value
        write_json(self.path / JOURNAL, {"plan": self._plan, "files": self._done})

    def settle(self) -> None:
        """Return when every written file has its name."""
        if self._pending is not None:
            self._pending.result()
            self._pending = None

    def close(self) -> None:
        """Let what is being finished come to its end."""
        self._finisher.shutdown()


class _Sum:
    """The crc32 of what passes, one piece behind the other."""

    def __init__(self) -> None:
        self.value = 0

    def add(self, data: memoryview) -> None:
        self.value = zlib.crc32(data, self.value)


def checksum(path: Path, specs: Mapping[str, TensorSpec]) -> int:
    """The crc32 of the tensors of a file in its order; -1 when they are not those of ``specs``."""
    try:
        if read_header(path) != dict(specs):
            return -1
    except ModelError:
        return -1
    value = 0
    with path.open("rb") as file:
        file.seek(8 + int.from_bytes(file.read(8), "little"))
        while block := file.read(BLOCK_BYTES):
            value = zlib.crc32(block, value)
    return value


def _read_journal(path: Path, plan: str) -> dict[str, int]:
    """Finished files of the same plan -> crc32."""
    try:
        found = json.loads(path.read_bytes())
        return {str(name): int(value) for name, value in found["files"].items()} if found["plan"] == plan else {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def unfinished_path(out: Path) -> Path:
    """Where the work for ``out`` lies until it is done."""
    return out.with_name(f"{TEMPORARY}{out.name}-unfinished")


@contextlib.contextmanager
def unfinished_folder(out: Path, plan: str) -> Iterator[Unfinished]:
    """A folder that becomes ``out`` when the block ends well. An interrupt or a kill leaves it for the next process
    with the same ``plan`` (what is made from what); an error takes it away.

    Raises: RunError ``run.exists``, ``run.in-use``; MachineError ``machine.disk-full``, ``machine.no-write``.
    """
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        what = "这个名字已经是一个文件" if out.is_file() else "文件夹里已经有东西"
        raise RunError("run.exists", what, place=str(out), hint="换一个 --out, 或先移走它")
    path = unfinished_path(out)
    with disk_errors(out), RunFolder(path).lock():
        work = Unfinished(path, plan)
        try:
            yield work
            work.settle()
        except (Interrupted, KeyboardInterrupt, SystemExit):
            raise
        except Exception:
            work.close()
            shutil.rmtree(path, ignore_errors=True)
            raise
        finally:
            work.close()
        for name in (JOURNAL, ".lock"):
            (path / name).unlink(missing_ok=True)
        sync_tree(path)
        remove_folder(out)
        os.replace(path, out)
        sync_folder(out.parent)
