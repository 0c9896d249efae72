"""What memory there is, read from a system made of files; what was held at the peak."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import pytest
import torch

from hantune.models.memory import (
    forget_pages,
    free_host_memory,
    free_memory,
    measured_peak,
    process_memory,
    steady_heap,
)

GIB = 1 << 30
CPU = torch.device("cpu")


def system(root: Path, files: dict[str, str]) -> Path:
    for name, text in {"proc/meminfo": "MemTotal: 16777216 kB\nMemAvailable:    8388608 kB\n", **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")
    return root


def test_without_control_groups_the_machine_says_it(tmp_path: Path) -> None:
    assert free_host_memory(system(tmp_path, {})) == 8 * GIB


def test_the_tightest_group_on_the_way_up_counts_and_file_pages_are_free(tmp_path: Path) -> None:
    root = system(
        tmp_path,
        {
            "proc/self/cgroup": "0::/jobs/mine",
            "sys/fs/cgroup/jobs/mine/memory.max": "max",
            "sys/fs/cgroup/jobs/mine/memory.current": str(GIB),
            "sys/fs/cgroup/jobs/memory.max": str(4 * GIB),
            "sys/fs/cgroup/jobs/memory.current": str(3 * GIB),
            "sys/fs/cgroup/jobs/memory.stat": f"anon 5\ninactive_file {GIB - 7}\nactive_file 7",
        },
    )
    assert free_host_memory(root) == 2 * GIB


@pytest.mark.parametrize(("limit", "left"), [(3 * GIB, 2 * GIB), (9223372036854771712, 8 * GIB)])
def test_the_old_kind_of_group_is_read_too(tmp_path: Path, limit: int, left: int) -> None:
    root = system(
        tmp_path,
        {
            "proc/self/cgroup": "5:cpu,cpuacct:/a\n4:memory:/box",
            "sys/fs/cgroup/memory/box/memory.limit_in_bytes": str(limit),
            "sys/fs/cgroup/memory/box/memory.usage_in_bytes": str(GIB),
        },
    )
    assert free_host_memory(root) == left


def test_a_system_that_does_not_tell_is_unknown(tmp_path: Path) -> None:
    assert free_host_memory(tmp_path) is None


def test_the_peak_is_seen_though_it_is_gone_at_the_end() -> None:
    if free_memory(CPU) is None:
        pytest.skip("only Linux tells")
    with measured_peak(CPU) as peak:
        torch.ones(64 << 20, dtype=torch.uint8)
    assert peak.grown is not None
    assert 60 << 20 < peak.grown < 80 << 20


class Ring:
    """What only the garbage collector can free."""

    def __init__(self) -> None:
        self.itself = self


def test_the_garbage_collector_looks_only_at_what_is_new() -> None:
    old = weakref.ref(Ring())
    with steady_heap():
        new = weakref.ref(Ring())
        gc.collect()
        assert (old() is None, new() is None) == (False, True)
    gc.collect()
    assert old() is None


def test_forgotten_pages_of_a_file_are_read_again_and_other_memory_is_left_alone(tmp_path: Path) -> None:
    count = 1 << 20
    path = tmp_path / "numbers"
    path.write_bytes(torch.arange(count, dtype=torch.int32).numpy().tobytes())
    mapped = torch.from_file(str(path), shared=False, size=count, dtype=torch.int32)
    own = torch.arange(count, dtype=torch.int32)
    for tensor in (mapped, mapped[5:], mapped[:3], own, own[:0]):
        before = tensor.clone()
        forget_pages(tensor)
        assert torch.equal(tensor, before)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell")
def test_forgotten_pages_are_held_no_more(tmp_path: Path) -> None:
    path = tmp_path / "zeros"
    path.write_bytes(bytes(64 << 20))
    mapped = torch.from_file(str(path), shared=True, size=64 << 20, dtype=torch.uint8)
    mapped.sum()
    before = process_memory()[0]
    forget_pages(mapped)
    after = process_memory()[0]
    assert before is not None
    assert after is not None
    assert before - after > 60 << 20
