"""Merge against a copy of the same bytes, and against PEFT, on synthetic Llamas.

    python benchmarks/models/merge.py --preset 7b --folder BIG_DISK            # hantune and a copy
    python benchmarks/models/merge.py --preset 1b --folder BIG_DISK --peft     # and PEFT's merge_and_unload

Each measurement is a process of its own: wall and processor seconds, and the highest resident memory. Before each the
base's files are dropped from the page cache, so that all of them read from the disk; what is written is synced.
Copy, hantune, copy: the ratio is to the mean of the two copies. Needs three times the model's size on the disk at
worst; everything is deleted afterwards.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

SHAPES: dict[str, dict[str, int]] = {
    "7b": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32},
    "3b": {"hidden_size": 3200, "intermediate_size": 8640, "num_hidden_layers": 26, "num_attention_heads": 32},
    "1b": {
        "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "num_attention_heads": 32,
        "num_key_value_heads": 4,
    },
    "small": {"hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 8, "num_attention_heads": 8},
}  # fmt: skip
VOCABULARY = 32_000
RANK, ALPHA = 8, 16


def make_base(folder: Path, preset: str) -> None:
    """A random Llama in bfloat16, written shard by shard."""
    import torch
    from transformers import LlamaConfig

    from hantune.assets import tokenizer_path
    from hantune.models.outline import skeleton
    from hantune.models.shards import TensorSpec, write_tensors
    from hantune.models.tokenizer import copy_tokenizer, load_tokenizer

    folder.mkdir(parents=True)
    config = LlamaConfig(**SHAPES[preset], vocab_size=VOCABULARY, max_position_embeddings=4096, dtype="bfloat16")
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(folder)
    copy_tokenizer(load_tokenizer(tokenizer_path()), folder, chat_template=None)
    specs = {name: TensorSpec("BF16", tuple(p.shape)) for name, p in skeleton(folder).named_parameters()}
    generator = torch.Generator().manual_seed(0)
    pool = torch.empty(1 << 24).normal_(0, 0.02, generator=generator).bfloat16()

    def tensor_of(name: str) -> Any:
        rows, *rest = specs[name].shape
        if not rest:
            return torch.ones(rows, dtype=torch.bfloat16)
        count = rows * rest[0]
        start = int(torch.randint(1 << 20, (), generator=generator))
        return torch.cat([pool.roll(-start)] * (count // len(pool) + 1))[:count].reshape(rows, rest[0])

    write_tensors(folder, specs, tensor_of)


def make_adapter(folder: Path, base: Path) -> None:
    """A rank-8 adapter of all linear layers, random."""
    import torch
    from peft import LoraConfig
    from safetensors.torch import save_file

    from hantune.data.templates import get_template
    from hantune.models.outline import outline, skeleton
    from hantune.models.record import base_entry, dress
    from hantune.models.tokenizer import load_tokenizer

    folder.mkdir()
    model = skeleton(base)
    names = sorted({name.split(".")[-2] for name in outline(model).linear})
    LoraConfig(task_type="CAUSAL_LM", r=RANK, lora_alpha=ALPHA, target_modules=names).save_pretrained(folder)
    generator = torch.Generator().manual_seed(1)
    tensors = {}
    for name, parameter in model.named_parameters():
        if name in outline(model).linear:
            stem = "base_model.model." + name.removesuffix(".weight")
            rows, columns = parameter.shape
            tensors[f"{stem}.lora_A.weight"] = torch.empty(RANK, columns).normal_(0, 0.02, generator=generator)
            tensors[f"{stem}.lora_B.weight"] = torch.empty(rows, RANK).normal_(0, 0.02, generator=generator)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    entry = base_entry(str(base), folder)
    dress(folder, tokenizer=load_tokenizer(base), template=get_template("llama2"), base=entry, info={})


# ---- what is measured, each in a process of its own ---------------------------------------------------------------


def run_copy(base: Path, adapter: Path, out: Path) -> dict[str, Any]:
    """The base's weights through the same file system."""
    from hantune.paths import sync_tree

    out.mkdir()
    for path in sorted(base.glob("*.safetensors")):
        shutil.copyfile(path, out / path.name)  # inside the system, without a detour through Python
    sync_tree(out)
    return {}


def run_hantune(base: Path, adapter: Path, out: Path) -> dict[str, Any]:
    """Our merge, proof included."""
    from hantune.models.merge import merge as merging

    prove, imported = merging._prove, time.process_time()
    spent: dict[str, float] = {}

    def timed_prove(*arguments: Any) -> Any:
        spent["write_cpu_seconds"] = round(time.process_time() - imported, 1)
        return prove(*arguments)

    merging._prove = timed_prove
    report = merging.merge(adapter, out, base=str(base))
    kept = ("write_seconds", "seconds", "bytes", "merged_tensors", "proof")
    return {key: report[key] for key in kept} | spent


def run_peft(base: Path, adapter: Path, out: Path) -> dict[str, Any]:
    """What people write with PEFT, in the base's precision; nothing is checked."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from hantune.paths import sync_tree

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(out)
    sync_tree(out)
    return {}


RUNS = {"copy": run_copy, "hantune": run_hantune, "peft": run_peft}


def measure(what: str, root: Path) -> dict[str, Any]:
    """One process: its seconds and its memory."""
    forget(root / "base")
    out = root / "out"
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, __file__, "--one", what, "--folder", str(root)]
    start = time.monotonic()
    settings = os.environ | {"GOMP_SPINCOUNT": "2000"}  # as the command line sets it (env.py), for all alike
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", env=settings)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    shutil.rmtree(out, ignore_errors=True)
    found = {"what": what, "process_seconds": round(time.monotonic() - start, 1)} | found
    print(json.dumps(found))
    return found


def one(what: str, root: Path) -> None:
    """The inside of ``measure``."""
    start = time.monotonic()
    found = RUNS[what](root / "base", root / "adapter", root / "out")
    usage = resource.getrusage(resource.RUSAGE_SELF)
    status = Path("/proc/self/status").read_text(encoding="ascii")  # ru_maxrss would count the parent, too
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))
    seconds = round(time.monotonic() - start, 1)
    cpu = round(usage.ru_utime + usage.ru_stime, 1)
    print(json.dumps({"wall_seconds": seconds, "cpu_seconds": cpu, "peak_mib": peak >> 10} | found))


def forget(folder: Path) -> None:
    """Drop a folder's files from the page cache."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main() -> None:
    """Make the model, measure, delete, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=SHAPES, default="small")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--peft", action="store_true")
    parser.add_argument("--one", choices=RUNS)
    options = parser.parse_args()
    if options.one:
        one(options.one, options.folder)
        return
    root = options.folder / f"merge-{options.preset}-{os.getpid()}"
    try:
        make_base(root / "base", options.preset)
        make_adapter(root / "adapter", root / "base")
        runs = [measure(what, root) for what in ["copy", "hantune", "copy", *["peft", "hantune"] * options.peft]]
    finally:
        shutil.rmtree(root, ignore_errors=True)
    copy = sum(run["wall_seconds"] for run in runs if run["what"] == "copy") / 2
    ours = next(run for run in runs if run["what"] == "hantune")
    summary: dict[str, Any] = {
        "preset": options.preset, "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "write_to_copy": round(ours["write_seconds"] / copy, 2), "all_to_copy": round(ours["wall_seconds"] / copy, 2),
        "peak_mib": ours["peak_mib"], "runs": runs,
    }  # fmt: skip
    if options.peft:
        theirs = next(run for run in runs if run["what"] == "peft")
        summary["wall_to_peft"] = round(ours["wall_seconds"] / theirs["wall_seconds"], 2)
        summary["cpu_to_peft"] = round(ours["cpu_seconds"] / theirs["cpu_seconds"], 2)
        summary["memory_to_peft"] = round(ours["peak_mib"] / theirs["peak_mib"], 3)
    path = ROOT / "benchmarks" / "results" / "models_merge.json"
    kept = json.loads(path.read_bytes()) if path.is_file() else {}
    path.write_text(json.dumps(kept | {options.preset: summary}, indent=2) + "\n", encoding="utf-8")
    print(json.dumps({key: value for key, value in summary.items() if key != "runs"}, indent=2))


if __name__ == "__main__":
    main()
