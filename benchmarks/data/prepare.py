"""Dialogues a second from a file like LCCC-base to token ids on disk, beside two usual ways, in one run.

    python benchmarks/data/prepare.py --tokenizer FOLDER [--dialogues 1000000] [--workers N] [--out FILE.json]

Rows: ``hantune`` is ``data prepare`` and the token store with the Llama 2 template, end to end. ``batched`` encodes
the same prompts and answers with one ``encode_batch_fast`` call a chunk (ids only: no reading, no template, nothing
written). ``map`` is what ``datasets.map`` calls a row: desegment, ``apply_chat_template``, over a sample; without the
library's own costs. Every sampled utterance is compared with SentencePiece. Peak memory is of all processes together.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
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
        while not self._stop.wait(0.1):
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


def processor_seconds() -> float:
    """Of this process and its finished children; what other programs take of the cores is not in it."""
    uses = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(use.ru_utime + use.ru_stime for use in uses)


def timed(work: Any) -> tuple[Any, float]:
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


def ours(file: Path, folder: Path, tokenizer: Any, workers: int | None) -> tuple[Any, dict[str, float]]:
    """The token store of the file, and the seconds that its two halves took."""
    from hantune.data.prepare import prepare
    from hantune.data.prepared import open_prepared
    from hantune.data.store import open_tokens
    from hantune.data.templates import TEMPLATES
    from hantune.data.tokens import Encoder

    _, prepared = timed(lambda: prepare([str(file)], folder, val_share=0.0, workers=workers))
    encoder, built = timed(lambda: Encoder(tokenizer))
    store, tokens = timed(lambda: open_tokens(open_prepared(folder), "train", encoder, TEMPLATES["llama2"], 512))
    return store, {"prepare": prepared, "encoder": built, "tokens": tokens}


def batched(dialogues: list[list[str]], tokenizer: Any) -> float:
    """Seconds for the ids of all utterances with the Rust backend, in chunks of like length."""
    texts = sorted((text for dialogue in dialogues for text in dialogue), key=len)
    encode = tokenizer.backend_tokenizer.encode_batch_fast
    return timed(lambda: [encode(texts[i : i + 1024]) for i in range(0, len(texts), 1024)])[1]


def mapped(dialogues: list[list[str]], tokenizer: Any) -> float:
    """Seconds for ``apply_chat_template`` a dialogue."""
    from hantune.data.templates import TEMPLATES

    template = TEMPLATES["llama2"].jinja
    roles = ("user", "assistant")

    def one(dialogue: list[str]) -> list[int]:
        messages = [{"role": roles[i % 2], "content": text} for i, text in enumerate(dialogue)]
        return list(tokenizer.apply_chat_template(messages, chat_template=template)["input_ids"])

    return timed(lambda: [one(dialogue) for dialogue in dialogues])[1]


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
    before = processor_seconds()
    store, seconds = ours(file, folder / "prepared", tokenizer, given.workers)
    used, peak = processor_seconds() - before, memory.peak
    sample = [[desegment(text) for text in each] for each in generate.dialogues(SAMPLED, given.seed)]
    texts = [text for dialogue in sample for text in dialogue][:SAMPLED]
    total = sum(seconds.values())
    slow = {"batched": batched(sample, tokenizer), "map": mapped(sample[:2000], tokenizer) * SAMPLED / 2000}
    rate = given.dialogues / total
    token_rate = given.dialogues / seconds["tokens"]
    return {
        "dialogues": given.dialogues,
        "bytes": file.stat().st_size,
        "tokens": int(store.lengths.sum()),
        "tokens_per_dialogue": round(float(np.mean(store.lengths)), 1),
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        "processor_seconds": round(used, 2),
        "dialogues_per_second": round(rate),
        "tokenising_dialogues_per_second": round(token_rate),
        "others_dialogues_per_second": {name: round(SAMPLED / value) for name, value in slow.items()},
        "ratio": {name: round(rate * value / SAMPLED, 1) for name, value in slow.items()},
        "ratio_tokenising": {name: round(token_rate * value / SAMPLED, 1) for name, value in slow.items()},
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
