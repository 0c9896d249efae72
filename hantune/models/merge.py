"""An adapter folded into its base: streamed tensor by tensor, then proven equal before the folder gets its name.

Arithmetic is float32 with one rounding to the dtype that the base is stored in. Memory: a few tensors while writing,
one model while proving.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hantune.errors import ModelError
from hantune.log import console
from hantune.models.adapter import load_adapter
from hantune.models.check import stored_dtype
from hantune.models.deltas import Change, Deltas, open_adapter, read_deltas, unsupported
from hantune.models.folder import read_config
from hantune.models.load import load_model, model_class
from hantune.models.locate import Located, locate
from hantune.models.proof import Proof, answer, compare, probe_ids, read_along, require_equal, wrong_weights
from hantune.models.record import base_entry, dress, read_record
from hantune.models.shards import TensorSpec, tensor_places, write_tensors
from hantune.models.tokenizer import load_tokenizer
from hantune.paths import new_folder, quoted, sha256_file, write_json

PAPERS = ("LICENSE*", "NOTICE*", "USE_POLICY*")
"""What a licence asks to pass on with the weights."""
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
    with new_folder(out) as folder:
        report, plan = _write_merged(located, folder)
        _write_rest(located, folder)
        proof = _prove(located, folder, plan)
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
        "proof": proof.as_dict(),
        "seconds": round(time.monotonic() - start, 2),
    }


def _write_merged(located: Located, folder: Path) -> tuple[dict[str, Any], _Plan]:
    """The merged weights and config; how many tensors changed and how large all are; what became of each."""
    source, adapter = Path(located.base), located.adapter
    assert adapter is not None
    config = read_config(source)
    if config.get("quantization_config"):
        raise unsupported("底座是量化过的, 只能合并到原精度的底座", source)
    places = tensor_places(source)
    with open_adapter(adapter) as file, _Reader() as reader:
        plan = _Plan(source, places, read_deltas(adapter, file), adapter)
        specs = {name: places[origin][1] for name, (origin, _) in plan.tensors.items()}

        def tensor_of(name: str) -> Tensor:
            origin, change = plan.tensors[name]
            stored = reader.read(places[origin][0], origin)
            if change is None:
                return stored
            return change(stored.to(torch.float32, copy=True)).to(stored.dtype)  # a change writes into what it gets

        num_bytes = sum(spec.num_bytes for spec in specs.values())
        with console.progress("合并权重", num_bytes >> 20, unit="MB") as bar:
            files = write_tensors(folder, specs, tensor_of, advance=lambda done: bar.advance(done >> 20))
    if plan.is_untied:
        config["tie_word_embeddings"] = False
    write_json(folder / "config.json", config)
    report = {
        "tensors": len(specs), "merged_tensors": plan.num_changed, "bytes": num_bytes, "files": len(files),
        "dtype": stored_dtype(specs),
    }  # fmt: skip
    return report, plan


class _Plan:
    """``tensors``: name in the merged file -> (name in the base's files, its change or None)."""

    def __init__(self, source: Path, places: dict[str, tuple[Path, TensorSpec]], deltas: Deltas, adapter: Path) -> None:
        self.tensors: dict[str, tuple[str, Change | None]] = {name: (name, None) for name in places}
        self.is_untied = False
        model = _skeleton(source)
        self._prefix = model.base_model_prefix + "."
        tied = _tied_pair(model)
        for name, change in deltas.changes.items():
            wanted = (name, *tied) if name in tied else (name,)
            stored = next((spelt for n in wanted for spelt in self._spellings(n) if spelt in places), None)
            if stored is None:
                raise unsupported(f"底座的文件里没有 {name}", adapter)
            if name in tied and name not in deltas.rows_only:
                self._untie(stored, tied, name, change)
            else:
                self.tensors[stored] = (stored, change)
        self.num_changed = sum(change is not None for _, change in self.tensors.values())

    def _spellings(self, name: str) -> tuple[str, ...]:
        """How files may spell a parameter: some (BLOOM's) leave the prefix of the body away."""
        return name, name.removeprefix(self._prefix), self._prefix + name

    def merged_name(self, name: str) -> str:
        """The merged file's name of a parameter that the adapter changes."""
        return next(spelt for spelt in self._spellings(name) if spelt in self.tensors)

    def _untie(self, stored: str, tied: tuple[str, ...], name: str, change: Change) -> None:
        """Embedding and head share one tensor in the base; the adapter changes one of them, so each gets its own."""
        _, shared = self.tensors.get(stored, (stored, None))
        if not self.is_untied:
            del self.tensors[stored]
            self.tensors |= dict.fromkeys(tied, (stored, shared))
            self.is_untied = True
        self.tensors[name] = (stored, change)


def _skeleton(source: Path) -> Any:
    """The base's architecture without memory."""
    config, family = model_class(source)
    with torch.device("meta"):
        return family(config)


def _tied_pair(model: Any) -> tuple[str, ...]:
    """The parameter names of embedding and head if they are one tensor, else nothing."""
    if not model.config.tie_word_embeddings:
        return ()
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    return tuple(f"{name}.weight" for end in ends for name, module in model.named_modules() if module is end)


class _Reader:
    """Tensors of the base, with one file open at a time."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._file: Any = None

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._file = None

    def read(self, path: Path, name: str) -> Tensor:
        from safetensors import safe_open

        if path != self._path:
            self._path, self._file = path, safe_open(path, framework="pt")
        tensor: Tensor = self._file.get_tensor(name)
        return tensor


def _write_rest(located: Located, folder: Path) -> None:
    """Generation settings, licence, tokenizer, template and where the model comes from."""
    source, adapter = Path(located.base), located.adapter
    assert adapter is not None
    for pattern in ("generation_config.json", *PAPERS):
        for path in sorted(source.glob(pattern)):
            if path.is_file():
                shutil.copyfile(path, folder / path.name)
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


def _prove(located: Located, folder: Path, plan: _Plan) -> Proof:
    """Base + adapter (PEFT) against the merged folder, one after the other in memory."""
    assert located.adapter is not None
    places = tensor_places(folder)
    dtype = getattr(torch, stored_dtype({name: spec for name, (_, spec) in places.items()}))
    prompts = probe_ids(load_tokenizer(located.tokenizer_path), located.template)
    with console.progress("核对", 2, unit="个模型") as bar, _Reader() as reader:
        tuned = load_adapter(load_model(located.base, dtype=dtype), located.adapter)
        reference = answer(tuned, prompts)
        with tuned.disable_adapter():
            untouched = read_along(tuned, prompts, reference.ids)
        wrong = wrong_weights(
            tuned, lambda name: reader.read(places[plan.merged_name(name)][0], plan.merged_name(name))
        )
        del tuned
        bar.advance()
        logits = read_along(load_model(folder, dtype=dtype), prompts, reference.ids)
        bar.advance()
    return compare(reference, untouched, logits, dtype, wrong=wrong)
