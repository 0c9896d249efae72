"""Training tokens per second on a card, beside the card's own matrix rate.

    python benchmarks/gpu/train_step.py [--preset 7b] [--budget 16384] [--out FILE]

Random weights of a real shape, LoRA r=8 on all linear layers, bf16, random chats as long as LCCC's (p50 30, p95 76
tokens; notes/cpu_baselines.md 2) or as long as instructions (``--long``). Rows, side by side in one process: PEFT's
layers with padded batches of 8 in random order (what HF collators do) and with sorted ones, our packed rows with
fused LoRA and varlen attention, and the same on a base in FP8 (``ours-fp8``; also how fast FP8 products alone are, and
how long rounding takes, compiled and not). ``floor``: 4N FLOPs a token over the measured bf16 matrix rate, for FP8 too;
N counts weights in matrix products, the head only at supervised tokens. ``--device cpu --preset 15m`` walks the same
way without a card.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hantune.config.schema import AdapterSection
from hantune.data.batch import Batch, collate
from hantune.data.pack import Layout, epoch_steps, micro_batches
from hantune.data.types import Example
from hantune.errors import MachineError
from hantune.models import attention, fp8
from hantune.models.adapter import attach_lora
from hantune.models.init import PRESETS
from hantune.models.loss import supervised_nats
from hantune.train.frozen import compute_densely
from hantune.train.lora_kernels import fuse_lora
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


def wait(device: torch.device) -> None:
    """Until the card has done what was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def matrix_rate(device: torch.device) -> float:
    """Measured bf16 FLOP/s of a large cube."""
    side = 8192 if device.type == "cuda" else 1024
    a = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    for _ in range(3):
        a @ a
    wait(device)
    start = time.perf_counter()
    for _ in range(10):
        a @ a
    wait(device)
    return 10 * 2 * side**3 / (time.perf_counter() - start)


def milliseconds(work: Callable[[], Any], device: torch.device) -> float:
    """Of one call, over ten after three that do not count."""
    for _ in range(3):
        work()
    wait(device)
    start = time.perf_counter()
    for _ in range(10):
        work()
    wait(device)
    return 100 * (time.perf_counter() - start)


def parts_of_fp8(preset: str, budget: int, device: torch.device) -> dict[str, Any]:
    """Milliseconds of what an FP8 layer of the model's width does with a full micro-batch, beside bf16's product."""
    shape = PRESETS[preset]
    x = torch.randn(budget, shape.width, device=device, dtype=torch.bfloat16)
    grad = torch.randn(budget, shape.inner, device=device, dtype=torch.bfloat16)
    plain = torch.nn.Linear(shape.width, shape.inner, bias=False, device=device, dtype=torch.bfloat16)
    weight = plain.weight.detach()
    held = torch.nn.Linear(shape.width, shape.inner, bias=False, device="meta").train()
    held.weight = fp8.packed(fp8.rounded(weight))
    read, codes = fp8.rounded(x), fp8.weight_of(held).codes
    work = {
        "bf16_product": lambda: x @ weight.T,
        "fp8_product": lambda: fp8.bare_product(read.codes, codes),
        "rounding": lambda: fp8.rounded(x),
        "rounding_not_compiled": lambda: fp8._round(x, None),
        "turning_the_weight": lambda: codes.t().contiguous(),
        "forward": lambda: fp8.product(x, held),
        "back": lambda: fp8.product_back(grad, held),
    }
    found: dict[str, Any] = {name: round(milliseconds(each, device), 3) for name, each in work.items()}
    return found | {"is_compiled": fp8._rounding(device.type) is not fp8._round}


def make_model(preset: str, device: torch.device, *, is_ours: bool, is_fp8: bool = False) -> Any:
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
    if is_ours and not attention.use(model, longest=1024):
        raise SystemExit("packed attention does not agree with sdpa on this card")
    if is_fp8:
        fp8.hold_in_fp8(model, device)
        compute_densely(model)
    model = attach_lora(model, AdapterSection(rank=8), seed=0)
    if is_ours:
        fuse_lora(model)
    return model


def cuts(examples: list[Example], way: str, budget: int) -> tuple[list[list[int]], Layout]:
    lengths = np.array([len(example.ids) for example in examples])
    if way == "peft-random-8":
        return [list(range(i, min(i + 8, len(examples)))) for i in range(0, len(examples), 8)], "sorted"
    layout: Layout = "packed" if way.startswith("ours") else "sorted"
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
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()

    def update(batch: Batch) -> None:
        nats, count = supervised_nats(model, batch.to(device))
        (nats / count).backward()
        torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    for batch in batches[:3]:
        update(batch)
    wait(device)
    start = time.perf_counter()
    for batch in batches[3:]:
        update(batch)
    wait(device)
    seconds = time.perf_counter() - start
    gib = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else math.nan
    return sum(b.num_tokens for b in batches[3:]) / seconds, gib


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="1b")
    parser.add_argument("--budget", type=int, default=8192)
    parser.add_argument("--count", type=int, default=4096)
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit(f"no card here. On one, this measures:\n\n{__doc__}")
    rate = matrix_rate(device)
    examples = chats(options.count, options.long)
    supervised = sum(sum(e.mask) for e in examples) / sum(len(e.ids) for e in examples)
    rows = []
    ways, parts = ["peft-random-8", "peft-sorted", "ours"], None
    try:
        fp8.require_fp8(device)
    except MachineError as error:
        print(error, flush=True)
    else:
        ways.append("ours-fp8")
        parts = parts_of_fp8(options.preset, options.budget, device)
        print(parts, flush=True)
    for way in ways:
        model = make_model(options.preset, device, is_ours=way.startswith("ours"), is_fp8=way == "ours-fp8")
        layers = sum(m.weight.numel() for n, m in model.named_modules() if n.endswith("base_layer"))
        head = VOCABULARY * model.get_base_model().config.hidden_size
        floor = rate / (4 * (layers + supervised * head))
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
        "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.processor(),
        "torch": torch.__version__,
        "transformers": __import__("transformers").__version__,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
        "matrix_tflops": round(rate / 1e12),
        "floor_tokens_per_second": round(floor),
        "rows": rows,
        "fp8_milliseconds": parts,
    }
    print(json.dumps(report, indent=1))
    if options.out:
        options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
