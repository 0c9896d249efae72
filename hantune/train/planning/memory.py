"""What a run will take of memory and disk, from a rehearsal of its largest step.

On a CPU it is the memory of the process that counts: what Python and its libraries hold, the tensors, and the holes
that glibc keeps between them. On a card it is the tensors and what CUDA needs for itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hantune.config.schema import RunConfig
from hantune.data.batch import Batch
from hantune.models.headers import ITEM_BYTES, TensorSpec
from hantune.models.memory import give_back, process_memory
from hantune.models.shards import DTYPE_NAMES
from hantune.train.planning.rehearsal import Footprint
from hantune.train.planning.target import Target
from hantune.train.precision import Precision

MIB = 1 << 20
PROCESS_BYTES = 560 * MIB
"""What Python, torch, transformers and PEFT hold, where the system does not tell."""
LIBRARY_BYTES = 60 * MIB
"""What is imported and set up only when a model is loaded and the first step runs."""
HOLES = 0.3
"""The share of what passes through a step that freed memory, which glibc has not given back, takes on top: 0.1 to 0.6
in the runs of ``benchmarks/train/plan_grid.py``, 0.8 in one of a small model; it grows in the first steps."""
KERNEL_BYTES = 100 * MIB
"""What prepacked products take on top of their weights: kernels, one for each shape, and holes that do not depend on
what passes."""
CONTEXT_BYTES = 700 * MIB
"""CUDA's context and the workspaces of its libraries."""
CARD_HOLES = 0.05
"""What torch's allocator for cards holds on top of the tensors."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes. ``peak``: the most that will be held on the device, as the system counts it (``VmHWM``).

    ``process``: held by programs and libraries; ``holes``: between tensors; ``loading``: the peak while the weights are
    read; ``passing``: the part of it that is pages of their files, which the system takes back when it needs them;
    ``needed``: what must be there; ``host``: the machine's memory beside a card; ``programs``: that part of it which
    Python and its libraries hold.
    """

    tensors: Footprint
    process: int
    holes: int
    loading: int
    passing: int = 0
    peak: int
    needed: int
    host: int
    programs: int

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "tensors": self.tensors.as_dict()}


@dataclass(frozen=True, kw_only=True)
class Disk:
    """Bytes that a run writes. ``most``: at its fullest; ``output``: what stays of it, the adapter or model."""

    checkpoint: int
    output: int
    most: int

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Largest:
    """The fullest micro-batch: its rows and columns, and the samples in it."""

    rows: int
    columns: int
    samples: int
    longest: int

    @classmethod
    def of(cls, batch: Batch, lengths: Any) -> Largest:
        rows, columns = batch.tokens_BT.shape
        longest = max(int(lengths[index]) for index in batch.indices)
        return cls(rows=rows, columns=columns, samples=len(batch.indices), longest=longest)


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Bytes of the weights as they lie in their files, of those among them that are made into another type, and of what
    is made of these."""

    stored: int
    passing: int
    converted: int

    @classmethod
    def of(cls, specs: Sequence[TensorSpec], precision: Precision, load: str, base: int) -> Weights:
        """``specs``: all tensors of the files; ``base``: bytes of what is not learned, as the model holds it."""
        wanted = DTYPE_NAMES[precision.weights]
        others = [spec for spec in specs if spec.dtype != wanted]
        converted = sum(spec.num_bytes // ITEM_BYTES[spec.dtype] * ITEM_BYTES[wanted] for spec in others)
        stored = sum(spec.num_bytes for spec in specs)
        if load == "fp8":  # the whole model is read first, and made into 8 bits layer by layer
            return cls(stored=stored, passing=stored, converted=max(base, converted))
        if load != "full":
            return cls(stored=stored, passing=stored, converted=base)
        return cls(stored=stored, passing=sum(spec.num_bytes for spec in others), converted=converted)


def estimate_memory(
    tensors: Footprint,
    weights: Weights,
    target: Target,
    *,
    saves_behind: bool,
    process: int,
) -> Memory:
    """What a run with these tensors takes on ``target``.

    ``saves_behind``: checkpoints are written while it goes on; ``process``: what programs take (``process_bytes``).
    """
    if target.device.type == "cpu":
        return _on_cpu(tensors, process, weights, saves_behind)
    return _on_card(tensors, process, weights)


def process_bytes() -> int:
    """What Python and the libraries of a run take in this process."""
    give_back()
    return (process_memory()[0] or PROCESS_BYTES) + LIBRARY_BYTES


def _on_cpu(tensors: Footprint, process: int, weights: Weights, saves_behind: bool) -> Memory:
    """All of it is memory of the process; files that are mapped count where they are touched.

    A checkpoint that is written while the run goes on is a copy of what is learned and of the optimiser's state.
    """
    most, copy = tensors.most, (tensors.learned + tensors.optimizer) * saves_behind
    holes = int(HOLES * (most - tensors.standing)) + KERNEL_BYTES * (tensors.prepacked > 0)
    loading = process + weights.stored + weights.converted
    running = process + most + copy + holes
    return Memory(
        tensors=tensors,
        process=process,
        holes=holes,
        loading=loading,
        passing=weights.passing,
        peak=max(loading, running),
        needed=max(loading - weights.passing, running),
        host=max(loading, running),
        programs=process,
    )


def _on_card(tensors: Footprint, process: int, weights: Weights) -> Memory:
    """Only tensors and CUDA's own needs lie on the card; the weights pass through the machine's memory file by file."""
    most = tensors.most
    holes = int(most * CARD_HOLES)
    peak = CONTEXT_BYTES + most + holes
    return Memory(
        tensors=tensors,
        process=CONTEXT_BYTES,
        holes=holes,
        loading=CONTEXT_BYTES + tensors.base + tensors.learned,
        peak=peak,
        needed=peak,
        host=process + weights.stored + tensors.learned + tensors.optimizer,
        programs=process,
    )


def estimate_disk(config: RunConfig, tensors: Footprint) -> Disk:
    """Checkpoints (as many as are kept, the best, and one being written) and the result."""
    checkpoint = tensors.learned + tensors.optimizer
    output = tensors.learned if config.adapter.kind == "lora" else tensors.learned + tensors.base
    return Disk(checkpoint=checkpoint, output=output, most=checkpoint * (config.train.keep_checkpoints + 2) + output)
