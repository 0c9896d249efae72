"""Work over processes: results in order, errors as they were, nobody left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hantune.data.pool import cores, ordered_map
from hantune.errors import DataError

PROGRAM = """
import time
from hantune.data.pool import ordered_map
from tests.data.test_pool import own_number
if __name__ == "__main__":
    with ordered_map(own_number, range(2), 2) as results:
        print(*set(results), flush=True)
        time.sleep(60)
"""


def double(number: int) -> int:
    time.sleep(0.02 if number % 3 == 0 else 0)
    return 2 * number


def refuse(number: int) -> int:
    if number == 2:
        raise DataError("format.roles", "不对", place="a:2", hint="改")
    return number


def own_number(_: int) -> int:
    time.sleep(0.3)
    return os.getpid()


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_results_come_in_order(workers: int) -> None:
    with ordered_map(double, range(20), workers) as results:
        assert list(results) == [2 * number for number in range(20)]


@pytest.mark.parametrize("workers", [1, 2])
def test_errors_keep_code_and_place(workers: int) -> None:
    with pytest.raises(DataError) as caught, ordered_map(refuse, range(9), workers) as results:
        list(results)
    assert caught.value.as_dict() == {"code": "format.roles", "message": "不对", "place": "a:2", "hint": "改"}


def test_items_are_taken_as_needed() -> None:
    taken: list[int] = []

    def items() -> object:
        for number in range(1000):
            taken.append(number)
            yield number

    with ordered_map(double, items(), 2) as results:  # type: ignore[arg-type]
        next(iter(results))
    assert len(taken) < 20


def test_cores() -> None:
    assert cores() >= 1


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_workers_end_with_a_killed_parent(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM, encoding="utf-8")
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, str(program)], env=os.environ | {"PYTHONPATH": str(root)}, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout
        workers = [int(number) for number in parent.stdout.readline().split()]
        parent.send_signal(signal.SIGKILL)
    assert workers
    end = time.monotonic() + 10
    while time.monotonic() < end and any(_lives(number) for number in workers):
        time.sleep(0.05)
    assert not any(_lives(number) for number in workers)


def _lives(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
