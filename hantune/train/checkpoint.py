"""Checkpoints that are whole or not there, and the newest one that verifies.

    checkpoints/step-000100/   weights.safetensors optimizer.safetensors rng.safetensors state.json MANIFEST.json
                               (and a file for each part more that a run has)
    checkpoints/last, best     the name of a folder beside them

A checkpoint is written under a temporary name, every file and the folder fsynced, renamed, the parent fsynced
(``paths.new_folder``). MANIFEST.json lists size and sha256 of every file; what does not verify is passed over. There is
no pickle anywhere.
"""

from __future__ import annotations

import copy
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hantune.errors import RunError
from hantune.log import console
from hantune.paths import TEMPORARY, RunFolder, json_bytes, new_folder, sha256_file, write_file, write_json

PARTS = ("weights", "optimizer", "rng")
"""What every checkpoint has."""
FORMAT = 1
Plain = bool | int | float | str | None
NAME = re.compile(r"step-(\d{6,})")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """One verified checkpoint."""

    folder: Path
    step: int
    state: dict[str, Any]

    def tensors(self, part: str) -> dict[str, Tensor]:
        """The tensors of ``weights``, ``optimizer``, ``rng`` or a part more, on the CPU."""
        return load_file(self.folder / f"{part}.safetensors")


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A run at a step boundary. ``parts``: the tensors of each of PARTS, and of more; ``state``: what JSON holds."""

    step: int
    parts: Mapping[str, Mapping[str, Tensor]]
    state: Mapping[str, Any]
    is_best: bool = False

    @property
    def num_bytes(self) -> int:
        return sum(tensor.nbytes for part in self.parts.values() for tensor in part.values())

    def apart(self) -> Snapshot:
        """A copy in the host's memory that further training does not reach."""
        parts = {
            part: {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}
            for part, tensors in self.parts.items()
        }
        return replace(self, parts=parts, state=copy.deepcopy(dict(self.state)))


def save_checkpoint(run: RunFolder, snapshot: Snapshot, *, keep: int) -> Path:
    """Write ``step-NNNNNN`` atomically, point ``last`` at it (and ``best``), drop all but the newest ``keep`` and best.

    Raises: MachineError ``machine.disk-full``; older checkpoints stay.
    """
    step = snapshot.step
    folder = run.checkpoints / f"step-{step:06d}"
    with new_folder(folder, replace=True) as temporary:
        for part, found in snapshot.parts.items():
            tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in found.items()}
            save_file(tensors, temporary / f"{part}.safetensors")
        write_json(temporary / "state.json", {**snapshot.state, "step": step})
        files = {
            path.name: {"size": path.stat().st_size, "sha256": sha256_file(path)}
            for path in sorted(temporary.iterdir())
        }
        write_json(temporary / "MANIFEST.json", {"format": FORMAT, "step": step, "files": files})
    write_file(run.checkpoints / "last", folder.name + "\n")
    if snapshot.is_best:
        mark_best(run, step)
    _drop_old(run, keep)
    return folder


def mark_best(run: RunFolder, step: int) -> None:
    """Point ``best`` at the checkpoint of ``step``."""
    write_file(run.checkpoints / "best", f"step-{step:06d}\n")


def best_checkpoint(run: RunFolder) -> Checkpoint | None:
    """The checkpoint ``best`` names, if it verifies."""
    pointer = run.checkpoints / "best"
    if not pointer.is_file():
        return None
    return _verified(run.checkpoints / pointer.read_text(encoding="utf-8").strip())


def checkpoint_at(run: RunFolder, step: int) -> Checkpoint | None:
    """The checkpoint of ``step``, if it is there and verifies."""
    return _verified(run.checkpoints / f"step-{step:06d}")


def newest_checkpoint(run: RunFolder) -> Checkpoint | None:
    """The newest checkpoint that verifies; None if there is none. What is torn is passed over and said."""
    for folder in reversed(_folders(run)):
        checkpoint = _verified(folder)
        if checkpoint is not None:
            return checkpoint
        console.warn(f"检查点 {folder.name} 不完整或被改过, 跳过它, 用更早的")
    return None


def sweep_unfinished(run: RunFolder) -> None:
    """Delete what a killed save left behind. Call only while holding the run's lock."""
    if run.checkpoints.is_dir():
        for path in run.checkpoints.glob(f"{TEMPORARY}*"):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def _folders(run: RunFolder) -> list[Path]:
    """All checkpoint folders, oldest first."""
    if not run.checkpoints.is_dir():
        return []
    found = [path for path in run.checkpoints.iterdir() if path.is_dir() and NAME.fullmatch(path.name)]
    return sorted(found, key=_step)


def _step(folder: Path) -> int:
    match = NAME.fullmatch(folder.name)
    return int(match.group(1)) if match else -1


def _verified(folder: Path) -> Checkpoint | None:
    """The checkpoint in ``folder`` if each file named in MANIFEST.json has its size and sha256 and none is extra."""
    try:
        raw = (folder / "MANIFEST.json").read_bytes()
        manifest = json.loads(raw)
        files = manifest["files"]
        present = {path.name for path in folder.iterdir()} - {"MANIFEST.json"}
        expected = {"format": FORMAT, "step": _step(folder), "files": files}
        needed = {f"{part}.safetensors" for part in PARTS}
        if raw != json_bytes(expected) or present != set(files) or not needed <= present:
            return None
        for name, facts in files.items():
            path = folder / name
            if path.stat().st_size != facts["size"] or sha256_file(path) != facts["sha256"]:
                return None
        state = json.loads((folder / "state.json").read_bytes())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return Checkpoint(folder=folder, step=_step(folder), state=state)


def _drop_old(run: RunFolder, keep: int) -> None:
    pointer = run.checkpoints / "best"
    best = pointer.read_text(encoding="utf-8").strip() if pointer.is_file() else ""
    for folder in _folders(run)[:-keep]:
        if folder.name != best:
            doomed = folder.with_name(f"{TEMPORARY}del-{folder.name}")
            folder.rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)


SHARED = ("qmap1", "qmap2")
"""bitsandbytes' tables of what its codes mean, one for all parameters; safetensors wants each tensor on its own."""


def optimizer_state(
    optimizer: torch.optim.Optimizer, names: Mapping[int, str]
) -> tuple[dict[str, Tensor], dict[str, Plain]]:
    """What any optimiser keeps of each parameter: tensors and plain values, as ``NAME|exp_avg``, ``NAME|step`` ...

    ``names``: id of a parameter -> its name. Raises: TypeError for what is neither: nothing is left out unsaid.
    """
    tensors: dict[str, Tensor] = {}
    values: dict[str, Plain] = {}
    for parameter, slots in optimizer.state.items():
        for slot, value in slots.items():
            key = f"{names[id(parameter)]}|{slot}"
            if isinstance(value, Tensor):
                tensors[key] = value.clone() if slot in SHARED else value
            elif value is None or isinstance(value, (bool, int, float, str)):
                values[key] = value
            else:
                raise TypeError(f"{key}: {type(value).__name__}")
    return tensors, values


def restore_optimizer(
    optimizer: torch.optim.Optimizer,
    parameters: Mapping[str, nn.Parameter],
    tensors: Mapping[str, Tensor],
    values: Mapping[str, Plain],
) -> None:
    """The inverse of ``optimizer_state``, on each parameter's device; paged states come back as pages."""
    saved = {id(parameters[key.rsplit("|", 1)[0]]) for key in tensors}
    if getattr(optimizer, "is_paged", False):
        for number, group in enumerate(optimizer.param_groups):
            for place, parameter in enumerate(group["params"]):
                if id(parameter) in saved:
                    optimizer.init_state(group, parameter, number, place)  # type: ignore[attr-defined]
    for key, value in {**tensors, **values}.items():
        name, slot = key.rsplit("|", 1)
        slots = optimizer.state[parameters[name]]
        if isinstance(value, Tensor) and getattr(slots.get(slot), "is_paged", False):
            slots[slot].copy_(value)
        else:
            slots[slot] = value.to(parameters[name].device) if isinstance(value, Tensor) else value


def restore_weights(parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]) -> None:
    """Copy saved weights into the parameters.

    Raises: RunError ``run.checkpoint-foreign`` when names or shapes are not those of this model.
    """
    same = parameters.keys() == tensors.keys() and all(
        parameters[name].shape == tensor.shape for name, tensor in tensors.items()
    )
    if not same:
        raise RunError(
            "run.checkpoint-foreign", "检查点里的参数和这个模型的对不上", hint="用训练时的底座模型和配置来接着练"
        )
    with torch.no_grad():
        for name, tensor in tensors.items():
            parameters[name].copy_(tensor)


def rng_tensors() -> dict[str, Tensor]:
    """The states of torch's generators: dropout draws from them, and nothing in training from Python's or numpy's."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states |= {f"cuda:{index}": state for index, state in enumerate(torch.cuda.get_rng_state_all())}
    return states


def restore_rng(tensors: Mapping[str, Tensor]) -> None:
    """The inverse of ``rng_tensors``."""
    torch.set_rng_state(tensors["cpu"])
    for name, state in tensors.items():
        index = int(name.removeprefix("cuda:")) if name.startswith("cuda:") else torch.cuda.device_count()
        if index < torch.cuda.device_count():
            torch.cuda.set_rng_state(state, index)
