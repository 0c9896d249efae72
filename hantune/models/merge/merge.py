"""An adapter folded into its base: streamed a run of rows at a time, then proven equal before the folder gets its name.

Arithmetic is float32 with one rounding to the dtype that the base is stored in. An adapter that was trained on a base
in 4 or 8 bits is merged into what those bits stand for. Memory: one layer, while writing and while proving.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hantune.errors import ModelError
from hantune.log import console
from hantune.models.adapter import NEW_ROWS, load_adapter
from hantune.models.check import stored_dtype
from hantune.models.folder import PAPERS, copy_beside, read_config
from hantune.models.load import load_checked, require_rows
from hantune.models.locate import Located, locate
from hantune.models.merge.deltas import Change, Deltas, open_adapter, read_deltas, unsupported
from hantune.models.merge.proof import DEPTH, Proof, answers, compare, probe_ids, require_equal
from hantune.models.merge.sweep import Folder, Sweep
from hantune.models.outline import outline, skeleton
from hantune.models.quantize import recorded
from hantune.models.record import base_entry, dress, read_record
from hantune.models.room import require_room
from hantune.models.shards import write_tensors
from hantune.models.tokenizer import load_tokenizer
from hantune.models.weights import Tensors
from hantune.paths import new_folder, quoted, sha256_file, write_json

NOTABLE_LOSS = 0.3
"""A merge that undoes more than this share of the adapter's effect is warned of."""


def merge(adapter: Path, out: Path, *, base: str | None = None) -> dict[str, Any]:
    """Write base + adapter as one model to ``out``; returns counts, sizes, the proof and the seconds.

    ``adapter``: an ADAPTER or RUN folder; its base is found as ``locate`` finds it unless given. Nothing is left
    where the proof fails. The same inputs give the same bytes.

    Raises: the errors of ``locate``; ModelError ``merge.no-adapter``, ``merge.unsupported``, ``merge.not-equal``;
        RunError ``run.exists``; MachineError ``machine.disk-full``.
    """
    start = time.monotonic()
    located = locate(adapter, base=base)
    if located.adapter is None:
        raise ModelError(
            "merge.no-adapter",
            "这里已经是完整的模型, 没有适配器可合并",
            place=str(adapter),
            hint=f"直接用它: hantune chat {quoted(adapter)}",
        )
    with new_folder(out) as folder, Tensors(Path(located.base)) as tensors, open_adapter(located.adapter) as file:
        plan = _Plan(located, tensors, file)
        require_room(sum(spec.num_bytes for spec in plan.specs.values()), out)
        report = _write_merged(plan, folder)
        _write_rest(located, folder)
        written = time.monotonic()
        proof = _prove(located, plan, folder)
        require_equal(proof, str(adapter))
    if proof.lost > NOTABLE_LOSS:
        console.warn(
            f"合并后的权重存成 {report['dtype']}, 舍入抵消了适配器大约 {proof.lost:.0%} 的作用; "
            "在意这一点就不合并, 直接用底座 + 适配器"
        )
    return report | {
        "folder": str(out),
        "base": located.base,
        "adapter": str(located.adapter),
        "run": str(located.run) if located.run else None,
        "proof": proof.as_dict(),
        "write_seconds": round(written - start, 2),
        "seconds": round(time.monotonic() - start, 2),
    }


class _Plan:
    """``sources``: name in the merged files -> (name in the base's files, its change or None)."""

    def __init__(self, located: Located, tensors: Tensors, file: Any) -> None:
        assert located.adapter is not None
        self.base, self.adapter, self.tensors = Path(located.base), located.adapter, tensors
        self.config = read_config(self.base)
        if self.config.get("quantization_config"):
            raise unsupported("底座是量化过的, 只能合并到原精度的底座", self.base)
        self.quantized = recorded(read_record(self.adapter), str(self.adapter))
        self.outline = outline(skeleton(self.base))
        self.sources: dict[str, tuple[str, Change | None]] = {name: (name, None) for name in tensors.specs}
        self.is_untied = False
        self._take(read_deltas(self.adapter, file), file)
        self.linear = {self.outline.stored(name, tensors): name for name in self.outline.linear}

    @property
    def specs(self) -> dict[str, Any]:
        """What is to be written."""
        return {name: self.tensors.specs[origin] for name, (origin, _) in self.sources.items()}

    @property
    def num_changed(self) -> int:
        """How many tensors the adapter changes."""
        return sum(change is not None for _, change in self.sources.values())

    def _take(self, deltas: Deltas, file: Any) -> None:
        tied = self.outline.tied
        if deltas.rows_only or self.outline.embedding in deltas.whole:  # new rows of a larger vocabulary: taught now
            self.config.pop(NEW_ROWS, None)
        stays_tied = deltas.rows_only | _trained_as_one(tied, deltas, file)
        for name, change in deltas.changes.items():
            stored = self.outline.stored(name, self.tensors)
            if stored is None:
                raise unsupported(f"底座的文件里没有 {name}", self.adapter)
            if name in tied and name not in stays_tied:
                self._untie(stored, tied, name, change)
            else:
                self.sources[stored] = (stored, change)

    def _untie(self, stored: str, tied: tuple[str, ...], name: str, change: Change) -> None:
        """Embedding and head share one tensor in the base; the adapter changes one of them, so each gets its own."""
        _, shared = self.sources.get(stored, (stored, None))
        if not self.is_untied:
            del self.sources[stored]
            self.sources |= dict.fromkeys(tied, (stored, shared))
            self.is_untied = True
        self.sources[name] = (stored, change)

    def rows(self, name: str) -> Iterator[Tensor]:
        """The merged tensor ``name`` in order, some rows at a time.

        Raises: ModelError ``merge.not-finite``.
        """
        origin, change = self.sources[name]
        change_rows = change() if change else None
        for start, rows in self._base_rows(origin):
            merged = rows
            if change_rows:
                merged = change_rows(rows.to(torch.float32, copy=True), start)
            if merged.is_floating_point() and not math.isfinite(merged.sum()):
                self._require_finite(name, rows, merged)
            yield merged.to(rows.dtype)

    def _base_rows(self, origin: str) -> Iterator[tuple[int, Tensor]]:
        """The base's tensor as the adapter was trained on it."""
        if self.quantized is None or origin not in self.linear:
            return self.tensors.blocks(origin)
        return Folder(self.tensors, self.outline, self.quantized).blocks(self.linear[origin])

    def _require_finite(self, name: str, base: Tensor, merged: Tensor) -> None:
        """A sum that overflows is no fault; a single NaN or infinity is."""
        if bool(merged.isfinite().all()):
            return
        is_base = not bool(base.isfinite().all())
        raise ModelError(
            "merge.not-finite",
            f"{'底座' if is_base else '适配器'}的 {name} 里有 NaN 或无穷大: 合并出来的模型不会说话. 没有留下任何文件",
            place=str(self.base if is_base else self.adapter),
            hint="重新下载或拷贝底座" if is_base else "换一个没有练坏的检查点: 看运行文件夹的 checkpoints/",
        )


def _trained_as_one(tied: tuple[str, ...], deltas: Deltas, file: Any) -> set[str]:
    """``tied`` where embedding and head were trained whole and are still equal, as one matrix that is stored twice."""
    if not tied or not deltas.whole.keys() >= set(tied):
        return set()
    first, *others = (file.get_tensor(deltas.whole[name]) for name in tied)
    return set(tied) if all(torch.equal(first, other) for other in others) else set()


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Small blocks are not worth waiting for other threads, and the one that writes needs a core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _write_merged(plan: _Plan, folder: Path) -> dict[str, Any]:
    """The merged weights and config; how many tensors changed and how large all are."""
    specs = plan.specs
    num_bytes = sum(spec.num_bytes for spec in specs.values())
    with console.progress("合并权重", num_bytes >> 20, unit="MB") as bar:
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            bar.advance(((done + count) >> 20) - (done >> 20))
            done += count

        with _one_thread():
            files = write_tensors(folder, specs, plan.rows, advance=advance)
    if plan.is_untied:
        plan.config["tie_word_embeddings"] = False
    write_json(folder / "config.json", plan.config)
    return {
        "tensors": len(specs), "merged_tensors": plan.num_changed, "bytes": num_bytes, "files": len(files),
        "dtype": stored_dtype(specs), "base_quantization": plan.quantized.as_dict()["type"] if plan.quantized else None,
    }  # fmt: skip


def _write_rest(located: Located, folder: Path) -> None:
    """Generation settings, licence, tokenizer, template and where the model comes from."""
    source, adapter = Path(located.base), located.adapter
    assert adapter is not None
    copy_beside(source, folder, ("generation_config.json", *PAPERS))
    record = read_record(adapter) or {}
    info: dict[str, Any] = {key: record[key] for key in ("data", "metrics") if key in record}
    info["adapter"] = {"sha256": sha256_file(adapter / "adapter_model.safetensors")}
    base = record.get("base") or base_entry(located.base, folder)
    dress(
        folder,
        tokenizer=load_tokenizer(located.tokenizer_path),
        template=located.template,
        base={**base, "hint": None},
        info=info,
    )


def _prove(located: Located, plan: _Plan, folder: Path) -> Proof:
    """Base + adapter (PEFT) against the merged folder, layer by layer."""
    load_checked(folder, dtype=torch.float32, device_map="meta")  # names and shapes are those of the model's code
    tokenizer = load_tokenizer(located.tokenizer_path)
    prompts = probe_ids(tokenizer, located.template)
    parameters = sum(math.prod(spec.shape) for spec in plan.specs.values())
    with console.progress("核对", 1, unit="遍") as bar, Tensors(folder) as written:
        bones = skeleton(plan.base)
        require_rows(bones, tokenizer, place=str(plan.base))
        tuned = load_adapter(bones, plan.adapter)
        sweep = Sweep(tuned, Folder(plan.tensors, plan.outline, plan.quantized), Folder(written, plan.outline))
        found = answers(sweep, prompts, parameters=parameters)
        wrong = sweep.findings.wrong_weights + _others(plan, written, sweep.findings.checked)
        bar.advance()
    dtype = getattr(torch, stored_dtype(written.specs))
    return compare(found, dtype, wrong=wrong, layers=getattr(bones.config, "num_hidden_layers", DEPTH))


def _others(plan: _Plan, written: Tensors, checked: set[str]) -> int:
    """How many elements differ in tensors that no module of the model used, or in ones that should not be there."""
    wrong = sum(math.prod(written.specs[name].shape) for name in written.specs.keys() - plan.sources.keys())
    for name in plan.sources.keys() - checked:
        origin, _ = plan.sources[name]
        for (_, its), (_, mine) in zip(plan.tensors.blocks(origin), written.blocks(name), strict=True):
            wrong += int((its != mine).sum())
    return wrong
