"""The best rate of matrix products on this machine, in float32 and bf16: what the floor of a step is measured by.

Of torch's own product, and of oneDNN's on a weight that is laid out beforehand (``... prepacked``).

    python rate.py TASK.json          with {"threads", "seconds", "result"}

Big squares and the shapes of a 110M Llama's layers; for each the best of several calls, over all the best.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch

SHAPES = (
    (1024, 1024, 1024), (2048, 2048, 2048), (3072, 3072, 3072), (4096, 4096, 4096),
    (1024, 768, 768), (1024, 768, 2048), (1024, 2048, 768), (2048, 768, 2048), (2048, 2048, 768), (4096, 768, 2048),
)  # fmt: skip
"""Rows, inner, columns."""
KINDS = {
    "float32": (torch.float32, False),
    "bf16": (torch.bfloat16, False),
    "float32 prepacked": (torch.float32, True),
    "bf16 prepacked": (torch.bfloat16, True),
}
"""Type, and whether the weight is laid out beforehand."""


def best_rate(shape: tuple[int, int, int], dtype: torch.dtype, seconds: float, *, is_prepacked: bool) -> float:
    """FLOP/s of the fastest call within about ``seconds``."""
    rows, inner, columns = shape
    x, weight = torch.randn(rows, inner).to(dtype), torch.randn(columns, inner).to(dtype)
    if is_prepacked:
        weight = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
    fastest, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        if is_prepacked:
            torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
        else:
            torch.nn.functional.linear(x, weight)
        fastest = min(fastest, time.perf_counter() - start)
    return 2 * rows * inner * columns / fastest


def main() -> None:
    task = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    torch.set_num_threads(task["threads"])
    found = {}
    with torch.inference_mode():
        for name, (dtype, is_prepacked) in KINDS.items():
            rates = {
                "x".join(map(str, shape)): best_rate(shape, dtype, task["seconds"], is_prepacked=is_prepacked)
                for shape in SHAPES
            }
            best = max(rates, key=lambda shape: rates[shape])
            found[name] = {"gflops": round(rates[best] / 1e9, 1), "shape": best}
    Path(task["result"]).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
