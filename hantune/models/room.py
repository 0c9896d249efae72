"""Room on the disk, asked for before the first byte is written."""

from __future__ import annotations

import shutil
from pathlib import Path

from hantune.errors import MachineError
from hantune.log import size

SPARE_BYTES = 64 << 20
"""For configs, tokenizers and what else goes with the weights."""


def require_room(num_bytes: int, folder: Path) -> None:
    """Nothing, if the disk of ``folder`` (which need not exist yet) holds ``num_bytes`` more and a little.

    Raises: MachineError ``machine.no-room``.
    """
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    if num_bytes + SPARE_BYTES > free:
        raise MachineError(
            "machine.no-room",
            f"磁盘放不下: 要写 {size(num_bytes)}, 只剩 {size(free)}. 还什么都没写",
            place=str(folder),
            hint="腾出空间, 或者用 --out 写到另一个盘",
        )
