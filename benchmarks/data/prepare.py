"""Dialogues a second from a file like LCCC-base to token ids on disk, beside two usual ways, in one run.

    python benchmarks/data/prepare.py --tokenizer FOLDER [--dialogues 1000000] [--workers N] [--out FILE.json]

Rows: ``hantune`` is ``data prepare`` and the token store with the Llama 2 template, end to end. ``batched`` encodes
the same prompts and answers with one ``encode_batch_fast`` call a chunk (ids only: no reading, no template, nothing
written). ``map_N`` is ``datasets.map`` by N processes over a sample, each row desegmented and templated; reading
the JSON is not in it. ``cleaned`` is ``data prepare`` with cleaning and exact duplicates, beside the same without. Each
sampled utterance is compared with SentencePiece. Peak memory is of all processes together.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import generate

SAMPLED = 20_000
"""Utterances that are compared, and dialogues that the slow ways are measured on."""


class Memory:
    """The highest sum of resident memory of this process and its children, in MB (shared pages by their share)."""

    def __init__(self) -> None:
        self.peak = 0.0
        self._stop = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while not self._stop.wait(0.3):
            self.peak = max(self.peak, sum(map(_proportional, _family(os.getpid()))))


def _family(process: int) -> list[int]:
    try:
        children = Path(f"/proc/{process}/task/{process}/children").read_text(encoding="ascii").split()
    except OSError:
        return []
    return [process, *(member for child in children for member in _family(int(child)))]


def _proportional(process: int) -> float:
    try:
        text = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="ascii")
    except OSError:
        return 0.0
    return next(int(line.split()[1]) / 1024 for line in text.splitlines() if line.startswith("Pss:"))


def timed(work: Any) -> tuple[Any, float]:
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


def prepare_with(file: Path, folder: Path, workers: int | None, **rules: Any) -> None:
    from hantune.data.prepare import prepare

    prepare([str(file)], folder, val_share=0.0, workers=workers, **rules)


def ours(file: Path, folder: Path, tokenizer: Any, workers: int | None) -> tuple[Any, dict[str, float]]:
    """The token store of the file, and the seconds that its two halves took."""
    from hantune.data.prepared import open_prepared
    from hantune.data.store import open_tokens
    from hantune.data.templates import TEMPLATES
    from hantune.data.tokens import Encoder

    _, prepared = timed(lambda: prepare_with(file, folder, workers))
    encoder, built = timed(lambda: Encoder(tokenizer))
    store, tokens = timed(lambda: open_tokens(open_prepared(folder), "train", encoder, TEMPLATES["llama2"], 512))
    return store, {"prepare": prepared, "encoder": built, "tokens": tokens}


def batched(dialogues: list[list[str]], tokenizer: Any) -> float:
    """Seconds for the ids of all utterances with the Rust backend, in chunks of like length."""
    texts = sorted((text for dialogue in dialogues for text in dialogue), key=len)
    encode = tokenizer.backend_tokenizer.encode_batch_fast
    return timed(lambda: [encode(texts[i : i + 1024]) for i in range(0, len(texts), 1024)])[1]


def mapped(file: Path, tokenizer: Any, workers: int) -> float:
    """Seconds for ``datasets.map`` with ``apply_chat_template`` over a file, by that many processes."""
    import datasets

    from hantune.data.formats.lccc import desegment
    from hantune.data.templates import TEMPLATES

    template = TEMPLATES["llama2"].jinja
    roles = ("user", "assistant")

    def one(row: dict[str, Any]) -> dict[str, list[int]]:
        texts = map(desegment, row["dialog"][: len(row["dialog"]) // 2 * 2])
        messages = [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]
        ids = tokenizer.apply_chat_template(messages, chat_template=template, return_dict=False)
        return {"input_ids": ids, "labels": ids}

    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as cache:
        data = datasets.load_dataset("json", data_files=str(file), split="train", cache_dir=cache)
        return timed(lambda: data.map(one, num_proc=workers, remove_columns=["dialog"]))[1]


def differing(texts: list[str], tokenizer: Any, model: Path) -> int:
    """Utterances whose ids by our tables differ from SentencePiece's."""
    import sentencepiece

    from hantune.data.tokens import WITH_PREFIX, Encoder

    spoken = sentencepiece.SentencePieceProcessor(model_file=str(model)).encode(texts)
    return sum(a != b for a, b in zip(Encoder(tokenizer)._encode_texts(WITH_PREFIX, texts), spoken, strict=True))


def measure(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    from hantune.data.formats.lccc import desegment
    from hantune.models.load import load_tokenizer

    tokenizer = load_tokenizer(given.tokenizer)
    file = folder / "lccc.jsonl"
    generate.write(file, given.dialogues, given.seed)
    memory = Memory()
    load = os.getloadavg()[0]
    store, seconds = ours(file, folder / "prepared", tokenizer, given.workers)
    peak = memory.peak
    cleaned = timed(lambda: prepare_with(file, folder / "cleaned", given.workers, clean="default", dedup="exact"))[1]
    sample = [[desegment(text) for text in each] for each in generate.dialogues(SAMPLED, given.seed)]
    texts = [text for dialogue in sample for text in dialogue][:SAMPLED]
    total = sum(seconds.values())
    few = folder / "few.jsonl"  # datasets wants an object a line
    few.write_text("".join(json.dumps({"dialog": each}) + "\n" for each in generate.dialogues(SAMPLED, given.seed)))
    slow = {"batched": batched(sample, tokenizer)}
    slow |= {f"map_{count}": mapped(few, tokenizer, count) for count in (1, os.cpu_count() or 1)}
    rate = given.dialogues / total
    token_rate = given.dialogues / seconds["tokens"]
    return {
        "dialogues": given.dialogues,
        "bytes": file.stat().st_size,
        "tokens": int(store.lengths.sum()),
        "tokens_per_dialogue": round(float(np.mean(store.lengths)), 1),
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        "dialogues_per_second": round(rate),
        "tokenising_dialogues_per_second": round(token_rate),
        "others_dialogues_per_second": {name: round(SAMPLED / value) for name, value in slow.items()},
        "ratio": {name: round(rate * value / SAMPLED, 1) for name, value in slow.items()},
        "ratio_tokenising": {name: round(token_rate * value / SAMPLED, 1) for name, value in slow.items()},
        "cleaned": {"seconds": round(cleaned, 2), "ratio": round((cleaned + total - seconds["prepare"]) / total, 2)},
        "peak_memory_mb": round(peak),
        "differing_utterances": differing(texts, tokenizer, Path(given.tokenizer) / "tokenizer.model"),
        "compared_utterances": len(texts),
        "load_before_and_after": [round(load, 2), round(os.getloadavg()[0], 2)],
        "machine": {"cores": os.cpu_count(), "python": platform.python_version(), "numpy": np.__version__},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--dialogues", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = json.dumps(measure(given, Path(folder)), indent=2)
    if given.out:
        given.out.write_text(result + "\n", encoding="utf-8")
    print(result)


if __name__ == "__main__":
    main()
