"""What a run is planned for."""

from __future__ import annotations

import pytest
import torch

from hantune.errors import ConfigError
from hantune.train.planning import target
from hantune.train.planning.target import here, parse_devices

GIB = 1 << 30


@pytest.mark.parametrize(
    ("text", "nodes", "count", "gib"),
    [("8x80GB", 1, 8, 80), ("24GB", 1, 1, 24), ("2 X 40G", 3, 6, 40), ("4*16GiB", 1, 4, 16), ("1x5.5GB", 1, 1, 5.5)],
)
def test_cards_are_counted_with_most_of_their_memory(text: str, nodes: int, count: int, gib: float) -> None:
    found = parse_devices(text, nodes)
    assert (found.total, found.is_here, found.device.type) == (count, False, "cuda")
    assert found.room is not None
    assert 0.97 < found.room / (gib * GIB) < 1
    found.name().encode("gbk")


@pytest.mark.parametrize("text", ["", "80", "0x80GB", "8x", "8x80TB", "GB", "-1x8GB", "8x80GB 24GB", "a100"])
def test_what_is_not_understood_is_refused(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_devices(text)
    assert caught.value.code == "plan.bad-devices"
    assert "8x80GB" in (caught.value.hint or "")


def test_here_counts_what_this_process_holds_already(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "own_memory", lambda: 5)
    monkeypatch.setattr(target, "free_memory", lambda device: 100)
    assert (here(torch.device("cpu")).room, here(torch.device("cuda")).room) == (105, 100)
    monkeypatch.setattr(target, "free_memory", lambda device: None)
    assert here(torch.device("cpu")).room is None
