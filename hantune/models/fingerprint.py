"""Which base model an adapter belongs to: a hash that reads a few megabytes, not the whole model."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from hantune.models.headers import weight_files

EDGE_BYTES = 64 * 1024
SAMPLE_BYTES = 4 * 1024
NUM_SAMPLES = 64
VOLATILE_KEYS = frozenset({"_name_or_path", "transformers_version"})
"""Written anew by each program that saves a config; they say nothing about the weights."""


def fingerprint(folder: Path) -> str:
    """64 hexadecimal digits: sha256 over the config, and over size, header, edges and samples of each weight file.

    It does not depend on where the folder lies or what it is called. A change of any name, shape or sampled byte
    (first and last 64 KiB, 64 evenly spaced 4 KiB pieces of every file) changes it.
    """
    digest = hashlib.sha256(_canonical_config(folder / "config.json"))
    for path in weight_files(folder):
        digest.update(path.name.encode())
        _add_file(digest, path)
    return digest.hexdigest()


def _canonical_config(path: Path) -> bytes:
    """The config's JSON with sorted keys and without what every save changes."""
    config = json.loads(path.read_bytes())
    kept = {key: value for key, value in config.items() if key not in VOLATILE_KEYS}
    return json.dumps(kept, sort_keys=True, ensure_ascii=True).encode()


def _add_file(digest: hashlib._Hash, path: Path) -> None:
    """Size, header and samples of one safetensors file."""
    size = path.stat().st_size
    digest.update(size.to_bytes(8, "little"))
    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
        digest.update(file.read(header))
        pieces = [(0, EDGE_BYTES), (max(0, size - EDGE_BYTES), EDGE_BYTES)]
        pieces += [(size * number // NUM_SAMPLES, SAMPLE_BYTES) for number in range(NUM_SAMPLES)]
        for offset, length in pieces:
            file.seek(offset)
            digest.update(file.read(length))
