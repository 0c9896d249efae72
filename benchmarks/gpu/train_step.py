"""Training tokens per second on a card, beside the card's own matrix rate.

    python benchmarks/gpu/train_step.py [--preset 1b] [--out FILE]

Random weights of a real shape, LoRA r=8 on all linear layers, bf16, random chats as long as LCCC's (p50 30, p95 76
tokens; notes/cpu_baselines.md 2) or as long as instructions (``--long``). Rows, side by side in one process: padded
batches of 8 in random order (what HF collators do), our sorted batches, our packed batches. ``floor``: 4N FLOPs a token
over the measured bf16 matrix rate; N counts weights in matrix products, the head only at supervised tokens.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hantune.config.schema import AdapterSection
from hantune.data.batch import Batch, collate
from hantune.data.pack import Layout, epoch_steps, micro_batches
from hantune.data.types import Example
from hantune.models.adapter import attach_lora
from hantune.models.init import PRESETS
from hantune.models.loss import supervised_nats
from hantune.train.optim import make_optimizer, trained_parameters

VOCABULARY = 32_000


def chats(count: int, long: bool, seed: int = 0) -> list[Example]:
    """Random ids; log-normal lengths with the median and tail of short chats, 38 % supervised."""
    draw = np.random.default_rng(seed)
    median, spread = (300, 0.8) if long else (30, 0.55)
    lengths = np.clip(draw.lognormal(np.log(median), spread, size=count), 8, 1024).astype(int)
    examples = []
    for length in lengths:
        prompt = int(length * 0.62)
        ids = tuple(int(i) for i in draw.integers(10, VOCABULARY, size=length))
        examples.append(Example(ids=ids, mask=(0,) * prompt + (1,) * (int(length) - prompt)))
    return examples


def matrix_rate(device: torch.device) -> float:
    """Measured bf16 FLOP/s of an 8192-cube."""
    a = torch.randn(8192, 8192, device=device, dtype=torch.bfloat16)
    for _ in range(3):
        a @ a
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(10):
        a @ a
    torch.cuda.synchronize()
    return 10 * 2 * 8192**3 / (time.perf_counter() - start)


def make_model(preset: str, device: torch.device) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = PRESETS[preset]
    config = LlamaConfig(
        hidden_size=shape.width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        intermediate_size=shape.inner,
        vocab_size=VOCABULARY,
        attn_implementation="sdpa",
    )
    with torch.device(device):
        torch.set_default_dtype(torch.bfloat16)
        model = LlamaForCausalLM(config)
        torch.set_default_dtype(torch.float32)
    return attach_lora(model, AdapterSection(rank=8), seed=0)


def cuts(examples: list[Example], way: str, budget: int) -> tuple[list[list[int]], Layout]:
    lengths = np.array([len(example.ids) for example in examples])
    if way == "random-8":
        return [list(range(i, min(i + 8, len(examples)))) for i in range(0, len(examples), 8)], "sorted"
    layout: Layout = "packed" if way == "packed" else "sorted"
    steps = epoch_steps(lengths, 256, seed=0, epoch=0)
    found = [
        batch
        for step in steps
        for batch in micro_batches(step, lengths, batch_size=10_000, batch_tokens=budget, layout=layout)
    ]
    return found, layout


def measure(model: Any, batches: list[Batch], device: torch.device) -> tuple[float, float]:
    """Real tokens per second over whole updates, and peak GiB."""
    parameters = trained_parameters(model)
    from hantune.config.schema import TrainSection

    optimizer = make_optimizer(parameters, TrainSection())
    model.train()
    torch.cuda.reset_peak_memory_stats()

    def update(batch: Batch) -> None:
        with torch.autocast("cuda", dtype=torch.bfloat16):
            nats, count = supervised_nats(model, batch.to(device))
        (nats / count).backward()
        torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    for batch in batches[:3]:
        update(batch)
    torch.cuda.synchronize()
    start = time.perf_counter()
    for batch in batches[3:]:
        update(batch)
    torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    return sum(b.num_tokens for b in batches[3:]) / seconds, torch.cuda.max_memory_allocated() / 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="1b")
    parser.add_argument("--budget", type=int, default=8192)
    parser.add_argument("--count", type=int, default=4096)
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    device = torch.device("cuda")
    rate = matrix_rate(device)
    model = make_model(options.preset, device)
    examples = chats(options.count, options.long)
    layers = sum(m.weight.numel() for n, m in model.named_modules() if n.endswith("base_layer"))
    head = VOCABULARY * model.get_base_model().config.hidden_size
    supervised = sum(sum(e.mask) for e in examples) / sum(len(e.ids) for e in examples)
    floor = rate / (4 * (layers + supervised * head))
    rows = []
    for way in ("random-8", "sorted", "packed"):
        found, layout = cuts(examples, way, options.budget)
        batches = [collate([examples[i] for i in cut], layout=layout, pad_id=0) for cut in found[:40]]
        computed = sum(batch.tokens_BT.numel() for batch in batches)
        speed, gib = measure(model, batches, device)
        row = {
            "way": way,
            "tokens_per_second": round(speed),
            "share_of_floor": round(speed / floor, 3),
            "useful_share": round(sum(b.num_tokens for b in batches) / computed, 3),
            "peak_gib": round(gib, 1),
        }
        rows.append(row)
        print(row, flush=True)
    report = {
        "command": f"benchmarks/gpu/train_step.py --preset {options.preset} --budget {options.budget}"
        + (" --long" if options.long else ""),
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "transformers": __import__("transformers").__version__,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
        "matrix_tflops": round(rate / 1e12),
        "floor_tokens_per_second": round(floor),
        "rows": rows,
    }
    print(json.dumps(report, indent=1))
    if options.out:
        options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
