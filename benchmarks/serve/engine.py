"""Tokens a second of our engine beside HF ``generate``, in one run: streams, batches, and one answer at a time.

    python benchmarks/serve/engine.py --tokenizer FOLDER --dialogues FILE [--preset 110m] [--rounds 3] [--out FILE.json]

A random Llama of the preset's shape, one thread, greedy, prompts from the first utterances of LCCC-like dialogues (one
a line, or ``hantune data prepare``'s other formats) in the Llama 2 template. An answer's length is given: a log-normal
number of tokens, as a trained model's answers differ in length and a random one's do not end. HF is told by a stopping
criterion for each row, so that both make the same number of useful tokens. Rows:

``streams``  the scheduler with 32 answers in progress, beside ``generate`` one by one (every fourth request)
``batch``    batches of 16 answers, beside ``generate`` with left padding, both on prompts sorted by length
``single``   one answer at a time, beside ``generate`` one by one
``sampled``  as ``streams``, but drawn with temperature 0.8 and top_p 0.9, beside our greedy streams: what chance costs

Ratios are of process CPU seconds (a busy machine changes them little) and of wall time, the parts taking turns.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import StoppingCriteria, StoppingCriteriaList

from hantune.data.types import Message
from hantune.infer.batch import Question, read_questions
from hantune.infer.engine import Engine, open_engine
from hantune.infer.sample import SamplingParams
from hantune.infer.scheduler import Done, Request, Scheduler, Stream
from hantune.models.init import init_model

CLIENTS, BATCH, FEW = 32, 16, 6
"""Answers in progress, rows of a batch; batches, and answers one at a time, that are compared."""
CHANCE = {"temperature": 0.8, "top_p": 0.9}


class Lengths(StoppingCriteria):  # type: ignore[misc]
    """Each row ends after a number of new tokens of its own."""

    def __init__(self, prompt: int, lengths: Sequence[int]) -> None:
        self.ends = torch.tensor(lengths) + prompt

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        return self.ends <= input_ids.shape[1]


def generate(engine: Engine, prompts: Sequence[list[int]], lengths: Sequence[int]) -> int:
    """Useful tokens made by one call of HF ``generate``."""
    width = max(map(len, prompts))
    pad = engine.encoder.pad_id
    tokens = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    with torch.no_grad():
        made = engine.model.generate(
            input_ids=tokens, attention_mask=mask, do_sample=False, max_new_tokens=max(lengths), pad_token_id=pad,
            eos_token_id=None, stopping_criteria=StoppingCriteriaList([Lengths(width, lengths)]),
        )  # fmt: skip
    assert made.shape[1] == width + max(lengths)
    return sum(lengths)


def one_by_one(engine: Engine, asked: Sequence[tuple[Message, ...]], lengths: Sequence[int]) -> int:
    return sum(generate(engine, [engine.prompt_ids(m)], [n]) for m, n in zip(asked, lengths, strict=True))


def hf_batches(engine: Engine, asked: Sequence[tuple[Message, ...]], lengths: Sequence[int]) -> int:
    rows = sorted(zip([engine.prompt_ids(m) for m in asked], lengths, strict=True), key=lambda row: len(row[0]))
    parts = [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
    return sum(generate(engine, [ids for ids, _ in part], [n for _, n in part]) for part in parts)


def streams(
    engine: Engine,
    asked: Sequence[tuple[Message, ...]],
    lengths: Sequence[int],
    waits: list[float] | None = None,
    **chance: Any,
) -> int:
    """Useful tokens; ``waits`` gets the seconds from each request's start to its first text."""
    scheduler = Scheduler(engine, max_batch=CLIENTS, max_queue=len(asked))
    params = [SamplingParams(max_tokens=n, seed=n, **chance) for n in lengths]
    opened = [scheduler.submit(Request(messages=m, params=p)) for m, p in zip(asked, params, strict=True)]
    made = asyncio.run(read_all(opened, [] if waits is None else waits))
    scheduler.close()
    return made


async def read_all(opened: Sequence[Stream], waits: list[float]) -> int:
    """All streams read in one event loop, as a server does."""

    async def read(stream: Stream) -> int:
        is_first = True
        async for event in stream:
            if is_first:
                waits.append(time.monotonic() - stream.submitted_at)
                is_first = False
            if isinstance(event, Done):
                return event.completion_tokens
        raise AssertionError("a stream without an end")

    return sum(await asyncio.gather(*map(read, opened)))


def batches(engine: Engine, asked: Sequence[tuple[Message, ...]], lengths: Sequence[int], size: int = BATCH) -> int:
    lanes = [engine.lane(m, SamplingParams(max_tokens=n)) for m, n in zip(asked, lengths, strict=True)]
    lanes.sort(key=lambda lane: -len(lane.prompt))
    return sum(len(completion.ids) for _, completion in engine.finish(enumerate(lanes), size))


def compare(ours: Callable[[], int], theirs: Callable[[], int], rounds: int) -> dict[str, Any]:
    """Medians of tokens a second, by CPU and by wall time, and how many times theirs ours are."""
    speeds: dict[str, list[tuple[float, float]]] = {"ours": [], "theirs": []}
    for number in range(rounds):
        pair = [("ours", ours), ("theirs", theirs)]
        for name, work in pair if number % 2 else pair[::-1]:
            cpu, wall = time.process_time(), time.perf_counter()
            made = work()
            speeds[name].append((made / (time.process_time() - cpu), made / (time.perf_counter() - wall)))
    found = {}
    for place, unit in enumerate(("cpu", "wall")):
        ratios = [a[place] / b[place] for a, b in zip(speeds["ours"], speeds["theirs"], strict=True)]
        found[unit] = {
            "ours": round(statistics.median(speed[place] for speed in speeds["ours"]), 1),
            "theirs": round(statistics.median(speed[place] for speed in speeds["theirs"]), 1),
            "ratio": round(statistics.median(ratios), 2),
            "ratios": [round(ratio, 2) for ratio in ratios],
        }
    return found


def measure(
    engine: Engine, hf: Engine, asked: list[tuple[Message, ...]], parts: Sequence[str], rounds: int
) -> dict[str, Any]:
    """``hf``: only its model is used, as transformers loads it."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(len(asked), generator=generator)
    lengths = (2.7 + 0.7 * drawn).exp().clamp(2, 96).long().tolist()  # LCCC's answers: about 19 tokens, few above 60
    few, count = asked[:FEW], lengths[:FEW]
    many, counts = asked[: BATCH * FEW], lengths[: BATCH * FEW]
    engine.prefixes = None
    batches(engine, few, count)  # the first calls of all kinds take longer
    waits: list[float] = []
    table = {
        "streams": (
            lambda: streams(engine, asked, lengths, waits), lambda: one_by_one(hf, asked[::4], lengths[::4])
        ),
        "batch": (lambda: batches(engine, many, counts), lambda: hf_batches(hf, many, counts)),
        "single": (lambda: batches(engine, few, count, 1), lambda: one_by_one(hf, few, count)),
        "sampled": (
            lambda: streams(engine, asked, lengths, **CHANCE), lambda: streams(engine, asked, lengths)
        ),
    }  # fmt: skip
    found = {}
    for name in parts:
        found[name] = compare(*table[name], rounds)
        print(name, found[name]["cpu"], file=sys.stderr, flush=True)
    if waits:
        tenths = statistics.quantiles(waits, n=20)
        found["first_text_seconds"] = {"p50": round(tenths[9], 2), "p95": round(tenths[18], 2)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--dialogues", type=Path, required=True)
    parser.add_argument("--preset", default="110m")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--requests", type=int, default=8 * CLIENTS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--parts", default="streams,batch,single,sampled")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    load = os.getloadavg()[0]
    questions = (item for item in read_questions(given.dialogues) if isinstance(item, Question))
    asked = [question.messages for question in islice(questions, given.requests)]
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        init_model(model, preset=given.preset, tokenizer=given.tokenizer)
        engine, hf = (open_engine(model, device="cpu", dtype=getattr(torch, given.dtype)) for _ in range(2))
        for one in (engine, hf):
            one.model.generation_config.eos_token_id = None
            one.encoder.tokenizer.eos_token_id = None
            one.encoder.stop_ids = lambda stops: ()  # type: ignore[method-assign]  # the answers' lengths are given
        rows = measure(engine, hf, asked, given.parts.split(","), given.rounds)
    lengths = [len(engine.prompt_ids(messages)) for messages in asked]
    result = {
        "preset": given.preset,
        "dtype": given.dtype,
        "requests": len(asked),
        "prompt_tokens": [min(lengths), round(statistics.mean(lengths), 1), max(lengths)],
        **rows,
        "load_before_and_after": [round(load, 2), round(os.getloadavg()[0], 2)],
        "machine": {
            "cores": os.cpu_count(), "threads": 1, "torch": torch.__version__, "transformers": transformers.__version__
        } | {"python": platform.python_version()},
    }  # fmt: skip
    text = json.dumps(result, indent=2)
    if given.out:
        given.out.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
