"""Memory of the machine: what can still be had, and what a piece of work took at its peak.

A Linux host kills a process that takes more than there is, without an exception; so it is read beforehand, from
/proc/meminfo and from the limits of the control groups (containers, Slurm) that the process is in.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import mmap
import re
from collections.abc import Iterator
from pathlib import Path

import torch

ROOT = Path("/")


class Peak:
    """``before``: bytes held at the start; ``bytes``: the most that were held at once since then; None = unknown."""

    def __init__(self, before: int | None) -> None:
        self.before = before
        self.bytes: int | None = None

    @property
    def grown(self) -> int | None:
        """Bytes that came on top at the peak."""
        return None if self.before is None or self.bytes is None else max(0, self.bytes - self.before)


@contextlib.contextmanager
def measured_peak(device: torch.device) -> Iterator[Peak]:
    """The most memory held inside: tensors of the card, or all of this process on a CPU."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        peak = Peak(torch.cuda.memory_allocated(device))
        yield peak
        peak.bytes = torch.cuda.max_memory_allocated(device)
        return
    with contextlib.suppress(OSError):
        (ROOT / "proc/self/clear_refs").write_text("5", encoding="ascii")  # sets the mark of VmHWM back to VmRSS
    peak = Peak(_status("VmRSS"))
    yield peak
    peak.bytes = _status("VmHWM")


def process_memory() -> tuple[int | None, int | None]:
    """Bytes of the host's memory that this process holds now, and held at its peak; None where nothing tells."""
    status = _text(ROOT / "proc/self/status")
    return _kibibytes(status, "VmRSS"), _kibibytes(status, "VmHWM")


def give_back() -> None:
    """Let the system have again what this process has freed: glibc keeps it, and it would be counted as held."""
    gc.collect()
    with contextlib.suppress(AttributeError, OSError, TypeError):  # macOS, Windows, musl have no such call
        ctypes.CDLL(None).malloc_trim(0)


@contextlib.contextmanager
def own_pages() -> Iterator[None]:
    """Blocks from 128 KiB made inside lie apart from glibc's heap, where they would stand between holes for good.

    Afterwards blocks lie there up to 32 MiB, which glibc comes to by itself once large blocks have been freed.
    """
    _set_malloc(smallest_apart=128 << 10, trimmed=128 << 10)
    try:
        yield
    finally:
        _set_malloc(smallest_apart=32 << 20, trimmed=64 << 20)


def _set_malloc(*, smallest_apart: int, trimmed: int) -> None:
    """``mallopt`` (malloc.h): M_MMAP_THRESHOLD, and M_TRIM_THRESHOLD."""
    with contextlib.suppress(AttributeError, OSError, TypeError):  # macOS, Windows, musl have no such call
        libc = ctypes.CDLL(None)
        libc.mallopt(-3, smallest_apart)
        libc.mallopt(-1, trimmed)


def forget_pages(tensor: torch.Tensor) -> None:
    """Hold the pages of a mapped file that this tensor lies in no more; touched, they are read from it again.

    Files stay mapped as a whole while any of their tensors is in use. Other memory is left alone.
    """
    first = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    last = (tensor.data_ptr() + tensor.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    if first < last and _is_file(first, last):
        with contextlib.suppress(AttributeError, OSError, TypeError):
            ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), mmap.MADV_DONTNEED)


def _is_file(first: int, last: int) -> bool:
    """Whether these addresses lie in one mapped file."""
    mapped = re.findall(r"^([0-9a-f]+)-([0-9a-f]+) .* /.*$", _text(ROOT / "proc/self/maps"), re.MULTILINE)
    return any(int(start, 16) <= first and last <= int(stop, 16) for start, stop in mapped)


def own_memory() -> int:
    """Bytes that only this process holds now (without mapped files); 0 where nothing tells."""
    return _status("RssAnon") or 0


def free_memory(device: torch.device) -> int | None:
    """Bytes this process can still take on the device; None where the system does not tell (no Linux)."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    return free_host_memory()


def free_host_memory(root: Path = ROOT) -> int | None:
    """The least of what the machine and each control group above this process leave."""
    left = [_kibibytes(_text(root / "proc/meminfo"), "MemAvailable"), *_left_in_groups(root)]
    known = [number for number in left if number is not None]
    return max(0, min(known)) if known else None


def _left_in_groups(root: Path) -> Iterator[int | None]:
    """Limit less use (without file pages that can be dropped) of every control group the process is in."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, name = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        is_new = controllers == ""
        mount = root / "sys/fs/cgroup" / ("" if is_new else "memory")
        limit_file, used_file = (
            ("memory.max", "memory.current") if is_new else ("memory.limit_in_bytes", "memory.usage_in_bytes")
        )
        inside = Path(name.lstrip("/"))
        for group in (inside, *inside.parents):
            limit, used = _text(mount / group / limit_file), _text(mount / group / used_file)
            if limit.isdecimal() and used.isdecimal():
                yield int(limit) - int(used) + _droppable(_text(mount / group / "memory.stat"))


def _droppable(stat: str) -> int:
    """Bytes of file pages: the system takes them back before it kills anybody."""
    kinds = dict(re.findall(r"^(?:total_)?((?:in)?active_file) (\d+)$", stat, re.MULTILINE))
    return sum(int(size) for size in kinds.values())


def _status(name: str) -> int | None:
    return _kibibytes(_text(ROOT / "proc/self/status"), name)


def _kibibytes(text: str, name: str) -> int | None:
    """The bytes of a line ``Name:   123 kB``."""
    found = re.search(rf"^{name}:\s+(\d+) kB$", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


@contextlib.contextmanager
def steady_heap() -> Iterator[None]:
    """What Python holds now is not looked at by its garbage collector inside: a full collection takes milliseconds.

    With torch and transformers loaded it takes tenths of a second, in the middle of some step.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
