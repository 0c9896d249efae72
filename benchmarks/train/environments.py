"""The peers' environments: one folder each, made by pip, far from the repository.

LLaMA-Factory's requirements pull a torch, torchvision and torchaudio of their own choice: the first is held by a
constraint, the others do not match a CPU torch (``operator torchvision::nms does not exist``) and are taken out again;
its runner puts an empty module where it insists on importing torchaudio.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

TORCH = "torch==2.13.0"
PACKAGES = {
    "trl": ["trl==1.16.0", "transformers==5.23.0", "peft==0.21.2", "accelerate==1.15.0", "datasets==5.2.0"],
    "llamafactory": ["llamafactory==0.9.5"],
}
UNWANTED = {"llamafactory": ["torchvision", "torchaudio"]}


def python_of(folder: Path) -> Path:
    return folder / "bin" / "python"


def make(tool: str, folder: Path) -> None:
    """A new environment of ``tool``; torch first, so that nothing chooses another."""
    start = time.monotonic()
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip = [str(python_of(folder)), "-m", "pip"]
    with tempfile.TemporaryDirectory() as scratch:
        constraint = Path(scratch) / "constraints.txt"
        constraint.write_text(TORCH + "\n", encoding="utf-8")
        subprocess.run([*pip, "install", "--quiet", TORCH], check=True)
        subprocess.run([*pip, "install", "--quiet", "--constraint", str(constraint), *PACKAGES[tool]], check=True)
    if unwanted := UNWANTED.get(tool):
        subprocess.run([*pip, "uninstall", "--quiet", "--yes", *unwanted], check=True)
    print(f"{tool}: {folder}, {time.monotonic() - start:.0f} s")
