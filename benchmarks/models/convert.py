"""Meta -> Hugging Face conversion against copying the same bytes: seconds and peak memory.

    python benchmarks/models/convert.py --work DIR [--preset 7b|3b|1b|tiny] [--shards N] [--tokenizer tokenizer.model]
                                        [--out FILE.json]

A model of seeded random bfloat16 weights is written to DIR in Meta's layout, one tensor in memory at a time, with a
``checklist.chk``. Then, in one run and both from a cold cache: the weight files are copied (``shutil.copyfile`` and
fsync), and ``hantune model convert`` runs in a process of its own. DIR is emptied at the end.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import pickle
import resource
import shutil
import subprocess
import sys
import time
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]
SHAPES = {
    "tiny": (64, 2, 4, 4, 32), "1b": (2048, 22, 32, 4, 256), "3b": (3200, 26, 32, 32, 256),
    "7b": (4096, 32, 32, 32, 256),
}  # fmt: skip
"""dim, layers, heads, key and value heads, multiple_of."""
BLOCK_BYTES = 64 << 20


def tensors_of(preset: str, vocab: int, shards: int) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """(params.json, name -> shape of one shard's tensor)."""
    dim, layers, heads, kv_heads, multiple = SHAPES[preset]
    inner = multiple * -(-int(8 * dim / 3) // multiple)
    kv = dim // heads * kv_heads
    shapes: dict[str, tuple[int, ...]] = {"tok_embeddings.weight": (vocab, dim // shards), "norm.weight": (dim,)}
    shapes["output.weight"] = (vocab // shards, dim)
    for layer in range(layers):
        shapes |= {
            f"layers.{layer}.{name}.weight": shape
            for name, shape in {
                "attention.wq": (dim // shards, dim), "attention.wk": (kv // shards, dim),
                "attention.wv": (kv // shards, dim), "attention.wo": (dim, dim // shards),
                "feed_forward.w1": (inner // shards, dim), "feed_forward.w2": (dim, inner // shards),
                "feed_forward.w3": (inner // shards, dim), "attention_norm": (dim,), "ffn_norm": (dim,),
            }.items()
        }  # fmt: skip
    params = {"dim": dim, "n_layers": layers, "n_heads": heads, "n_kv_heads": kv_heads, "multiple_of": multiple,
              "norm_eps": 1e-5, "vocab_size": -1}  # fmt: skip
    return params, shapes


class Storage:
    """Stands for a storage of ``count`` bfloat16 numbers while pickling."""

    def __init__(self, key: str, count: int) -> None:
        self.key, self.count = key, count


class Described:
    """Pickles as a tensor whose bytes lie elsewhere."""

    def __init__(self, storage: Storage, shape: tuple[int, ...]) -> None:
        self.storage, self.shape = storage, shape

    def __reduce__(self) -> Any:
        stride = (self.shape[1], 1) if len(self.shape) == 2 else (1,)
        return torch._utils._rebuild_tensor_v2, (self.storage, 0, self.shape, stride, False, OrderedDict())


class Pickler(pickle.Pickler):
    def persistent_id(self, value: Any) -> Any:
        if isinstance(value, Storage):
            return "storage", torch.BFloat16Storage, value.key, "cpu", value.count
        return None


def write_pth(path: Path, shapes: dict[str, tuple[int, ...]], block: bytes) -> None:
    """A file as ``torch.save`` writes it, without the model in memory."""
    listed = {
        name: Described(Storage(str(number), torch.Size(shape).numel()), shape)
        for number, (name, shape) in enumerate(shapes.items())
    }
    table = io.BytesIO()
    Pickler(table, protocol=2).dump(listed)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("consolidated/data.pkl", table.getvalue())
        archive.writestr("consolidated/byteorder", b"little")
        for number, (name, shape) in enumerate(shapes.items()):
            with archive.open(f"consolidated/data/{number}", "w", force_zip64=True) as member:
                for piece in pieces(name, torch.Size(shape).numel() * 2, block):
                    member.write(piece)
        archive.writestr("consolidated/version", b"3\n")


def pieces(name: str, num_bytes: int, block: bytes) -> Iterator[memoryview]:
    """The random block, begun elsewhere for each name."""
    start = int.from_bytes(hashlib.sha256(name.encode()).digest()[:3], "little") // 2 * 2 % len(block)
    while num_bytes:
        piece = memoryview(block)[start : start + num_bytes]
        yield piece
        num_bytes -= len(piece)
        start = 0


def write_model(folder: Path, preset: str, shards: int, tokenizer: Path) -> int:
    """A Meta folder; the bytes of its weights."""
    from sentencepiece import SentencePieceProcessor

    vocab = SentencePieceProcessor(model_file=str(tokenizer)).get_piece_size()
    params, shapes = tensors_of(preset, vocab, shards)
    generator = torch.Generator().manual_seed(0)
    block = torch.empty(BLOCK_BYTES // 2).normal_(0, 0.02, generator=generator).bfloat16()
    data = block.view(torch.uint8).numpy().tobytes()
    folder.mkdir(parents=True)
    for number in range(shards):
        write_pth(folder / f"consolidated.{number:02d}.pth", shapes, data)
    (folder / "params.json").write_text(json.dumps(params), encoding="utf-8")
    shutil.copyfile(tokenizer, folder / "tokenizer.model")
    with (folder / "checklist.chk").open("w", encoding="utf-8") as file:
        for path in sorted(folder.glob("[!c]*")) + sorted(folder.glob("*.pth")):
            digest = hashlib.md5(usedforsecurity=False)
            with path.open("rb") as weights:
                while part := weights.read(BLOCK_BYTES):
                    digest.update(part)
            file.write(f"{digest.hexdigest()}  {path.name}\n")
    return sum(path.stat().st_size for path in folder.glob("*.pth"))


def forget(folder: Path) -> None:
    """Out of the system's cache with the files of a folder."""
    os.sync()
    for path in folder.iterdir():
        handle = os.open(path, os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def copy(source: Path, goal: Path) -> dict[str, float]:
    """Wall and CPU seconds of copying the weight files, down to the disk."""
    goal.mkdir()
    forget(source)
    start, before = time.perf_counter(), time.process_time()
    for path in sorted(source.glob("*.pth")):
        shutil.copyfile(path, goal / path.name)
        with (goal / path.name).open("rb") as file:
            os.fsync(file.fileno())
    return {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - before}


def convert(source: Path, goal: Path) -> dict[str, float]:
    """Wall and CPU seconds and peak memory of the command."""
    forget(source)
    start = time.perf_counter()
    command = [sys.executable, "-m", "hantune", "model", "convert", str(source), "--out", str(goal), "--chat"]
    subprocess.run(command, cwd=ROOT, check=True)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "peak_mb": used.ru_maxrss / 1024,
    }


def main() -> None:
    """Measure once and say the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--preset", choices=SHAPES, default="7b")
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    source, copied, made = (given.work / name for name in ("source", "copied", "made"))
    try:
        num_bytes = write_model(source, given.preset, given.shards, given.tokenizer)
        copying = [copy(source, copied)]
        shutil.rmtree(copied)
        converting = convert(source, made)
        shutil.rmtree(made)
        copying.append(copy(source, copied))
    finally:
        for folder in (source, copied, made):
            shutil.rmtree(folder, ignore_errors=True)
    mean = sum(run["seconds"] for run in copying) / len(copying)
    found = {
        "preset": given.preset, "shards": given.shards, "gigabytes": num_bytes / 1e9, "copy": copying,
        "convert": converting, "times_the_copy": converting["seconds"] / mean,
    }  # fmt: skip
    text = json.dumps(found, indent=2)
    print(text)
    if given.out:
        given.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
