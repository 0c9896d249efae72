"""What a run is planned for: this machine's processor or card, or cards that are not here."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch

from hantune.errors import ConfigError
from hantune.models.memory import free_memory, own_memory

USABLE = 0.98
"""The share of a card's named memory that programs can have: an H100 of 80 GB has 79.2 GiB."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """``device``: where a run would compute; ``room``: bytes each device offers, None if the system does not tell."""

    device: torch.device
    room: int | None
    count: int = 1
    nodes: int = 1
    is_here: bool = True

    @property
    def total(self) -> int:
        """Devices of all machines together; each holds the whole model and takes its share of a step."""
        return self.count * self.nodes

    def name(self) -> str:
        """For people."""
        if self.device.type == "cpu":
            return "这台机器的内存"
        if self.is_here:
            return "这块显卡"
        return f"{self.total} 块 {(self.room or 0) / USABLE / 2**30:.0f} GB 的显卡"


def here(device: torch.device) -> Target:
    """The device of this machine: as much of its memory as is free now, and on a CPU what this process has already."""
    free = free_memory(device)
    own = own_memory() if device.type == "cpu" else 0
    return Target(device=device, room=None if free is None else free + own)


def parse_devices(text: str, nodes: int = 1) -> Target:
    """Cards that need not be here: ``8x80GB``, or ``24GB`` for one.

    Raises: ConfigError ``plan.bad-devices``.
    """
    found = re.fullmatch(r"(?:([1-9]\d{0,4})\s*[xX*×])?\s*([1-9]\d{0,4}(?:\.\d+)?)\s*(?:GB|G|GiB)", text.strip())
    if not found:
        raise ConfigError(
            "plan.bad-devices",
            f"看不懂这样的显卡: {text}",
            place="--devices",
            hint="写 张数x显存, 例如 --devices 8x80GB, 一张 24 GB 的写 --devices 24GB",
        )
    room = int(float(found[2]) * 2**30 * USABLE)
    return Target(device=torch.device("cuda"), room=room, count=int(found[1] or 1), nodes=nodes, is_here=False)
