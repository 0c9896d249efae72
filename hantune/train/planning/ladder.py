"""Changes of a configuration that make a run smaller, from the one that costs nothing to the one that costs most.

Each is rehearsed like the run itself, on top of those before it, until the run fits; what turns out not to be needed is
taken back. What changes what is learned comes last.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hantune.config.schema import RunConfig
from hantune.data.types import Example
from hantune.errors import MachineError
from hantune.log import console
from hantune.train.planning.outlook import Outlook, look_ahead
from hantune.train.setup import Material

WORTH = 0.01
"""A change that saves less than this share of the tensors is left out."""
SHORTEST, LOWEST = 64, 4
"""``data.max_tokens`` and ``adapter.rank`` are not halved below these."""


@dataclass(frozen=True, kw_only=True)
class Rung:
    """``values``: settings to change, by dotted name; ``cost``: what it costs (Chinese); ``saves``: bytes that
    need not be there, on top of the rungs before; ``peak``: what is then needed."""

    values: dict[str, Any]
    cost: str
    saves: int = 0
    peak: int = 0

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {"values": self.values, "cost": self.cost, "saves": self.saves, "peak": self.peak}


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """``rungs``: all that were tried; ``needed``: the fewest of them with which the run ``fits``; ``last``: the outlook
    with them, or with all where nothing helps."""

    rungs: tuple[Rung, ...]
    needed: tuple[Rung, ...]
    last: Outlook

    @property
    def fits(self) -> bool:
        return self.last.fits

    @property
    def values(self) -> dict[str, Any]:
        """The settings of ``needed``."""
        return {name: value for rung in self.needed for name, value in rung.values.items()}

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "fits": self.fits,
            "rungs": [rung.as_dict() for rung in self.rungs],
            "needed": self.values,
            "peak": self.last.memory.needed,
        }


def climb(config: RunConfig, material: Material, outlook: Outlook) -> Ladder:
    """The ladder of a run that does not fit where ``outlook`` looked."""
    rungs: list[Rung] = []
    now, base = outlook, config
    with console.progress("找放得下的设置", None, unit="种") as bar:

        def tried(changed: RunConfig) -> Outlook:
            bar.advance()
            return _outlook(changed, config, material, outlook)

        for kind in KINDS:
            for rung in kind(base, now):
                with contextlib.suppress(MachineError):  # a library that is not installed here
                    changed = with_changes(base, rung.values)
                    found = tried(changed)
                    saves = now.memory.needed - found.memory.needed
                    if saves < WORTH * outlook.memory.tensors.most:
                        continue
                    rungs.append(replace(rung, saves=saves, peak=found.memory.needed))
                    now, base = found, changed
                if now.fits:
                    break
            if now.fits:
                break
        needed = _merged(rungs)
        for rung in reversed(needed[:-1] if now.fits else []):
            without = [other for other in needed if other is not rung]
            found = tried(with_changes(config, {name: v for other in without for name, v in other.values.items()}))
            if found.fits:
                needed, now = without, found
    return Ladder(rungs=tuple(_merged(rungs)), needed=tuple(needed), last=now)


def with_changes(config: RunConfig, values: dict[str, Any]) -> RunConfig:
    """The configuration with some settings changed, by dotted name; checked anew."""
    data = config.model_dump()
    for name, value in values.items():
        section, _, key = name.partition(".")
        data[section][key] = value
    return RunConfig.model_validate(data)


def _outlook(config: RunConfig, original: RunConfig, material: Material, first: Outlook) -> Outlook:
    if config.data.max_tokens < original.data.max_tokens:
        cut = {part: Shortened(getattr(material, part), config.data.max_tokens) for part in ("train", "val")}
        material = replace(material, **cut)  # type: ignore[arg-type]
    off = None if first.prepack.is_on else first.prepack  # a run that fits at last is not to grow again
    return look_ahead(config, material, first.target, like=first, prepack=off)


def _merged(rungs: list[Rung]) -> list[Rung]:
    """Neighbours that set the same thing, as one."""
    merged: list[Rung] = []
    for rung in rungs:
        if merged and merged[-1].values.keys() == rung.values.keys():
            rung = replace(rung, saves=rung.saves + merged.pop().saves)
        merged.append(rung)
    return merged


class Shortened:
    """Samples cut to ``most`` tokens: what a smaller ``data.max_tokens`` makes of them, at the most."""

    def __init__(self, samples: Any, most: int) -> None:
        self._samples, self._most = samples, most
        self.lengths = np.minimum(samples.lengths, most)
        self.learned = np.minimum(samples.learned, most)
        self.characters = samples.characters

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, number: int) -> Example:
        example: Example = self._samples[number]
        return replace(example, ids=example.ids[: self._most], mask=example.mask[: self._most])


def _plain_weights(config: RunConfig, now: Outlook) -> Iterator[Rung]:
    if now.prepack.is_on:
        yield Rung(values={"train.prepack": False}, cost="矩阵乘法慢一些, 学到的不变")


def _recompute(config: RunConfig, now: Outlook) -> Iterator[Rung]:
    if config.train.activation_checkpointing is not True:
        yield Rung(values={"train.activation_checkpointing": True}, cost="慢约三成, 学到的不变")


def _smaller_batches(config: RunConfig, now: Outlook) -> Iterator[Rung]:
    """A step keeps its samples and is cut into more micro-batches."""
    tokens = now.largest.rows * now.largest.columns
    while tokens > now.largest.longest:
        tokens = max(now.largest.longest, tokens // 2)
        yield Rung(values={"train.batch_tokens": tokens}, cost="稍慢, 每步学的样本不变")


def _lean_optimizer(config: RunConfig, now: Outlook) -> Iterator[Rung]:
    asked = config.train.optimizer
    if not asked.endswith("8bit"):
        yield Rung(values={"train.optimizer": f"{asked}8bit"}, cost="学到的几乎不变")
    if config.train.ema_decay:
        yield Rung(values={"train.ema_decay": 0.0}, cost="评测和结果不再用滑动平均")


def _lora(config: RunConfig, now: Outlook) -> Iterator[Rung]:
    if config.adapter.kind == "none":
        yield Rung(
            values={"adapter.kind": "lora", "train.learning_rate": max(2e-4, config.train.learning_rate)},
            cost="只学适配器, 不再学全部参数; 学习率也跟着改",
        )


def _fewer_bits(config: RunConfig, now: Outlook) -> Iterator[Rung]:
    if config.adapter.kind != "lora":
        return
    if now.precision.name == "float32" and config.model.load == "full":
        yield Rung(values={"train.precision": "bf16"}, cost="精度略低; CPU 没有 bf16 指令时慢很多")
    if config.model.load == "full":
        yield Rung(values={"model.load": "8bit"}, cost="底座压成 8 比特, 略慢")
    if config.model.load != "4bit":
        yield Rung(values={"model.load": "4bit"}, cost="底座压成 4 比特, 略慢, 质量略低")


def _shorter(config: RunConfig, now: Outlook) -> Iterator[Rung]:
    most = min(config.data.max_tokens, now.largest.longest)
    while most // 2 >= SHORTEST:
        most //= 2
        yield Rung(values={"data.max_tokens": most}, cost="更长的对话会被截短")


def _lower_rank(config: RunConfig, now: Outlook) -> Iterator[Rung]:
    rank = config.adapter.rank
    while config.adapter.kind == "lora" and rank // 2 >= LOWEST:
        rank //= 2
        yield Rung(values={"adapter.rank": rank}, cost="适配器能学的少一些")


KINDS = (_plain_weights, _recompute, _smaller_batches, _lean_optimizer, _lora, _fewer_bits, _lower_rank, _shorter)
"""The kinds of change, in the order in which they are tried."""
