"""Tokens of each kind of tokenizer: processor time beside ``encode_batch_fast`` on the same texts, in one process.

    python benchmarks/data/kinds.py --tokenizers FOLDER... [--texts DATA...] [--families llama3 qwen2 gpt2 bloom]
        [--size 64000] [--dialogues 50000] [--out FILE.json]

``--families`` are byte-level BPEs, trained here on ``--texts`` (any files that ``data prepare`` reads) with the
expression, normalizer and merges of that family: the real ones may not be spread. Two sets of dialogues: the
look-alike of ``generate.py``, and those of ``--texts``. ``setup`` is the proof and its tables, made once; ``first``
meets every word for the first time and ``again`` none. Both write ids, mask and template; ``encode_batch_fast`` gives
the ids of the bare messages, sorted by length. Every message is compared.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ["TOKENIZERS_PARALLELISM"] = "false"
sys.path.insert(0, str(Path(__file__).parent))
import generate
import numpy as np
import tokenizers

FAMILIES = ("llama3", "qwen2", "gpt2", "bloom")
GROUP = 4096
"""Dialogues in a batch, as in the prepared files."""


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """A result, and the seconds of this process's processor time that it took."""
    gc.collect()
    gc.freeze()
    start = time.process_time()
    result = work()
    return result, time.process_time() - start


def look_alikes(count: int) -> list[list[str]]:
    from hantune.data.formats.lccc import desegment

    return [[desegment(text) for text in each] for each in generate.dialogues(count, 0)]


def real(files: Sequence[str], folder: Path) -> list[list[str]]:
    """The messages of data files."""
    from hantune.data.prepare import prepare
    from hantune.data.prepared import open_prepared

    prepare(files, folder, val_share=0.0)
    return [[each.text for each in talk.messages] for talk in open_prepared(folder).conversations("train")]


def train(name: str, size: int, texts: Sequence[str]) -> Any:
    """A tokenizer of a family, from texts."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    from hantune.data.junctions import FAMILIES as KNOWN

    core = Tokenizer(models.BPE())
    core.normalizer = normalizers.NFC() if name == "qwen2" else None
    split = pre_tokenizers.Split(Regex(KNOWN[FAMILIES.index(name)].expression), "isolated")
    bare = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.pre_tokenizer = pre_tokenizers.Sequence([split, bare])
    if name == "gpt2":
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    core.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    )
    if name == "llama3":
        core = Tokenizer.from_str(json.dumps(all_ways(json.loads(core.to_str()))))
    core.add_special_tokens([AddedToken(token, normalized=False) for token in ("<s>", "</s>", "<pad>")])
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


def all_ways(plan: dict[str, Any]) -> dict[str, Any]:
    """With a merge for every way to make a token of two, and ``ignore_merges``, as Llama 3's file has it."""
    ranks = plan["model"]["vocab"]
    cuts = [(rank, token[:i], token[i:]) for token, rank in ranks.items() for i in range(1, len(token))]
    ways = sorted(
        (rank, ranks[left], ranks[right], left, right) for rank, left, right in cuts if {left, right} <= ranks.keys()
    )
    plan["model"].update(ignore_merges=True, merges=[way[3:] for way in ways])
    return plan


def batches_of(dialogues: Sequence[Sequence[str]]) -> list[Any]:
    """The dialogues as prepared rows."""
    from hantune.data.prepared import Columns
    from hantune.data.types import Conversation, Message

    batches = []
    for start in range(0, len(dialogues), GROUP):
        columns = Columns()
        for texts in dialogues[start : start + GROUP]:
            roles = ("user", "assistant")
            messages = tuple(Message(role=roles[i % 2], text=text) for i, text in enumerate(texts))  # type: ignore[arg-type]
            columns.add(Conversation(messages=messages, source="a.jsonl:1"), "x")
        batches.append(columns.take())
    return batches


def measure(tokenizer: Any, dialogues: Sequence[Sequence[str]]) -> dict[str, Any]:
    """One tokenizer on one set of dialogues."""
    from hantune.data.bulk import Bulk
    from hantune.data.templates import TEMPLATES
    from hantune.data.tokens import WITH_PREFIX, Encoder

    encoder = Encoder(tokenizer)
    messages = sorted((text for texts in dialogues for text in texts), key=len)
    batches = batches_of(dialogues)
    backend = encoder._pair[WITH_PREFIX]

    def batched() -> None:
        for start in range(0, len(messages), 1024):
            backend.encode_batch_fast(messages[start : start + 1024], add_special_tokens=False)

    borders, setup = timed(lambda: encoder.borders)
    bulk = Bulk(TEMPLATES["llama2"], encoder, 1 << 20)
    work = {"batched": batched, "first": lambda: [bulk.encode(batch) for batch in batches]}
    seconds = {"setup": setup} | {name: timed(one)[1] for name, one in work.items()}
    seconds["again"] = timed(work["first"])[1]
    unique = list(dict.fromkeys(filter(None, messages)))
    wanted = [each.ids for each in backend.encode_batch_fast(unique, add_special_tokens=False)]
    slices = [unique[start : start + GROUP] for start in range(0, len(unique), GROUP)]
    found = [ids for each in slices for ids in encoder._encode_texts(WITH_PREFIX, each)]
    return {
        "tokens": encoder.vocab_size,
        "characters": sum(map(len, messages)),
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        "ratio": {
            "first": round(seconds["batched"] / seconds["first"], 1),
            "again": round(seconds["batched"] / seconds["again"], 1),
        },
        "pairs_table": list(borders._joins.table.shape),
        "compared": len(unique),
        "differing": sum(map(list.__ne__, found, wanted)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizers", nargs="*", default=[])
    parser.add_argument("--texts", nargs="*", default=[])
    parser.add_argument("--families", nargs="*", default=[], choices=FAMILIES)
    parser.add_argument("--size", type=int, default=64_000)
    parser.add_argument("--dialogues", type=int, default=50_000)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    from hantune.models.load import load_tokenizer

    with tempfile.TemporaryDirectory() as folder:
        sets = {"look-alike": look_alikes(given.dialogues)}
        if given.texts:
            sets["texts"] = real(given.texts, Path(folder) / "prepared")
    texts = [text for texts in sets.get("texts", []) for text in texts]
    made = {Path(each).name: lambda each=each: load_tokenizer(each) for each in given.tokenizers}
    made |= {f"{name} (trained)": lambda name=name: train(name, given.size, texts) for name in given.families}
    result: dict[str, Any] = {
        "dialogues": {name: len(each) for name, each in sets.items()},
        "machine": {
            "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 2), "python": platform.python_version(),
            "numpy": np.__version__, "tokenizers": tokenizers.__version__,
        },
        "kinds": {},
    }  # fmt: skip
    for name, make in made.items():
        tokenizer = make()
        result["kinds"][name] = {which: measure(tokenizer, each) for which, each in sets.items()}
        print(json.dumps({name: result["kinds"][name]}, ensure_ascii=False), flush=True)
    if given.out:
        given.out.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
