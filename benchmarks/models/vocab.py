"""What a larger Chinese vocabulary gains, and which beginning of the new rows learns best.

    python benchmarks/models/vocab.py DATA --work FOLDER --stage tokens     # minutes
    python benchmarks/models/vocab.py DATA --work FOLDER --stage pretrain   # 110M parameters: half an hour of one core
    python benchmarks/models/vocab.py DATA --work FOLDER --stage rows       # nine short runs, half an hour

DATA: a folder with ``lccc/ medical/ alpaca/ sharegpt/ dialogue/ tokenizers/`` as ``CORPORA`` names them. A tenth of the
conversations (by hash) is held out of everything.

``tokens``: Llama 2's tokenizer with 8,000 pieces chosen from the training parts, tokens a character on the held-out
parts; beside it Llama 2 with all of ``chinese-sp-20000``, and Chinese-LLaMA-2's own tokenizer. ``pretrain``: a model of
the preset's shape learns a little with the old vocabulary, so that its rows mean something. ``rows``: from there, new
rows that begin as the mean of their old pieces', as noise, or as the mean of all rows; LoRA and new rows are trained as
``hantune train`` does it, the same batches for all three; bits a character of held-out text, for three seeds.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
RESULTS = ROOT / "benchmarks" / "results" / "vocab.json"

CORPORA = {
    "lccc": ["lccc/lccc_toy_pairs.txt", "lccc/lccc_toy_split.json"],
    "medical": [
        "medical/huatuo_llama_med_llama_data.json", "medical/medicalgpt_medical_sft_1K_format.jsonl",
        "medical/toyhom_neike_gb18030.csv",
    ],
    "chat": [
        "alpaca/alpaca_zh_1000.json", "sharegpt/sharegpt_zh_1000.jsonl", "dialogue/film_dev.json",
        "dialogue/music_dev.json", "dialogue/crosswoz_val.json.zip",
    ],
}  # fmt: skip
PIECES = 8000
LENGTH = 256
PRETRAIN_ROWS, TUNE_ROWS = 4, 3
PRETRAIN_RATE, TUNE_RATE = 1e-3, 1e-3
HELD_OUT = 1500
"""Characters of each corpus that bits are measured on."""
STARTS = ("mean", "random", "mean-all")


def prepare_corpora(data: Path, work: Path) -> list[Path]:
    """The PREPARED folders, made once."""
    from hantune.data.prepare import prepare

    for name, files in CORPORA.items():
        if not (work / name).is_dir():
            prepare([str(data / file) for file in files], work / name, val_share=0.1)
    return [work / name for name in CORPORA]


def documents(folder: Path, part: Any) -> list[str]:
    """The conversations of a part as plain text."""
    from hantune.data.prepared import open_prepared

    return ["\n".join(m.text for m in c.messages) for c in open_prepared(folder).conversations(part)]


def english_lines(data: Path) -> list[str]:
    """Every text of the English alpaca file that has no East Asian character."""
    from hantune.models.vocab.pieces import RUN

    records = json.loads((data / "alpaca" / "alpaca_en_999.json").read_bytes())
    return [
        value for record in records for value in record.values() if isinstance(value, str) and not RUN.search(value)
    ]


def tokens(data: Path, work: Path, base: Path) -> dict[str, Any]:
    """Tokens a character before and after, for three vocabularies; and that English kept its ids."""
    from hantune.models.vocab.expand import expand_vocab
    from hantune.models.vocab.files import Vocabulary, open_model

    corpora = list(map(str, prepare_corpora(data, work)))
    tokenizers = data / "tokenizers"
    ours = work / "expanded-mean"
    begin = time.process_time()
    report = expand_vocab(base, ours, corpus=corpora, num_pieces=PIECES, measure=False)
    seconds = time.process_time() - begin
    listed = expand_vocab(
        base, work / "expanded-sp", corpus=corpora, measure=False,
        sp_model=tokenizers / "chinese-sp-20000" / "chinese_sp.model",
    )  # fmt: skip
    lines = english_lines(data)
    old, new = Vocabulary(base), Vocabulary(ours)
    changed = sum(old.backend.encode(line).ids != new.backend.encode(line).ids for line in lines)
    chinese_llama_2 = open_model(tokenizers / "chinese-llama-2" / "tokenizer.model")
    rows = []
    for mine, theirs, folder in zip(report["measured"], listed["measured"], corpora, strict=True):
        from hantune.models.vocab.text import read_source

        held = read_source(folder).held
        third = sum(map(len, chinese_llama_2.encode(held))) / sum(map(len, held))
        rows.append({
            "corpus": Path(folder).name, "held_out_characters": mine["characters"],
            "llama2": mine["tokens_per_character_before"], "ours_8000": mine["tokens_per_character"],
            "ours_fewer": mine["fewer"], "llama2_with_chinese_sp_20000": theirs["tokens_per_character"],
            "chinese_sp_fewer": theirs["fewer"], "chinese_llama_2_55296": round(third, 4),
            "chinese_llama_2_fewer": round(mine["tokens_per_character_before"] / third, 3),
        })  # fmt: skip
    return {
        "rows": rows, "english_texts": len(lines), "english_texts_changed": changed, "kept": report["kept"],
        "pieces": {"ours": report["pieces"], "chinese_sp": listed["pieces"], "left_out": listed["left_out"]},
        "cpu_seconds": round(seconds, 1),
    }  # fmt: skip


def batches(work: Path, folder: Path, steps: int, rows: int, seed: int) -> Iterator[torch.Tensor]:
    """``steps`` batches [rows, LENGTH + 1] of running text, the three corpora in turn."""
    from hantune.models.load import load_tokenizer

    backend = load_tokenizer(folder).backend_tokenizer
    end = load_tokenizer(folder).eos_token_id
    need = (steps * rows // 3 + 2) * LENGTH
    streams = []
    for name in CORPORA:
        texts = documents(work / name, "train")
        random.Random(seed).shuffle(texts)
        ids: list[int] = []
        for text in texts:
            if len(ids) >= need:
                break
            ids += [*backend.encode(text).ids, end]
        streams.append(torch.tensor(ids))
    row = 0
    for _ in range(steps):
        found = []
        for _ in range(rows):
            stream, place = streams[row % 3], (row // 3) * LENGTH
            place %= len(stream) - LENGTH
            found.append(stream[place : place + LENGTH + 1])
            row += 1
        yield torch.stack(found)


def train(model: Any, data: Iterator[torch.Tensor], steps: int, rate: float, *, at: Any = lambda step: None) -> None:
    """AdamW on what is trainable, bfloat16 autocast, linear decay to a tenth; ``at`` hears each step and the end."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=rate, betas=(0.9, 0.95), weight_decay=0.0)
    model.train()
    for step, tokens_BT in enumerate(data):
        at(step)
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1, (step + 1) / 10) * (1 - 0.9 * step / steps)
        with torch.autocast("cpu", torch.bfloat16):
            logits_BTV = model(input_ids=tokens_BT[:, :-1], use_cache=False).logits
        loss = F.cross_entropy(logits_BTV.float().flatten(0, 1), tokens_BT[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        print(f"{step + 1}/{steps} {loss.item():.3f}", file=sys.stderr, flush=True)
    at(steps)


def pretrain(data: Path, work: Path, base: Path, steps: int) -> dict[str, Any]:
    """The base with its old vocabulary taught a little; written over it."""
    from hantune.models.load import load_model

    prepare_corpora(data, work)
    model = load_model(base, dtype=torch.float32)
    train(model, batches(work, base, steps, PRETRAIN_ROWS, 0), steps, PRETRAIN_RATE)
    model.save_pretrained(base)
    return {"steps": steps, "tokens": steps * PRETRAIN_ROWS * LENGTH}


def rows(work: Path, base: Path, steps: int, seeds: int, save: Any) -> list[dict[str, Any]]:
    """Bits a character before and after training for each beginning and seed."""
    from hantune.config.schema import AdapterSection
    from hantune.models.adapter import attach_lora
    from hantune.models.load import load_model
    from hantune.models.vocab.files import Vocabulary
    from hantune.models.vocab.proof import bits_per_character, pick_bits_texts
    from hantune.models.vocab.rows import write_expanded

    old, new = Vocabulary(base), Vocabulary(work / "expanded-mean")
    pieces = sorted((number, piece) for piece, number in new.pieces.items() if number >= old.num_ids)
    origins = [old.old_ids(piece) for _, piece in pieces]
    held = {name: pick_bits_texts(documents(work / name, "val"), HELD_OUT) for name in ("lccc", "medical")}
    before = load_model(base, dtype=torch.float32)
    reference = {name: round(bits_per_character(before, base, texts), 4) for name, texts in held.items()}
    del before
    found: list[dict[str, Any]] = [{"start": "old vocabulary", "step": 0, **reference}]
    for seed in range(seeds):
        for start in STARTS:
            folder = work / f"rows-{start}"
            folder.mkdir(exist_ok=True)
            new.write(folder, [])
            write_expanded(base, folder, origins, old.num_ids, start=start, seed=seed)
            model = attach_lora(load_model(folder, dtype=torch.float32), AdapterSection(), seed=seed)

            def measure(step: int, model: Any = model, start: str = start, seed: int = seed) -> None:
                if step in (0, steps):
                    bits = {n: round(bits_per_character(model, work / "expanded-mean", t), 4) for n, t in held.items()}
                    found.append({"start": start, "seed": seed, "step": step, **bits})
                    save(found)

            train(model, batches(work, folder, steps, TUNE_ROWS, seed), steps, TUNE_RATE, at=measure)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--stage", choices=("tokens", "pretrain", "rows"), required=True)
    parser.add_argument("--preset", default="110m")
    parser.add_argument("--steps", type=int, default=None, help="pretrain: 300, rows: 16")
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    from hantune.models.init import init_model

    torch.set_num_threads(1)
    args.work.mkdir(parents=True, exist_ok=True)
    base = args.work / f"base-{args.preset}"
    if not base.is_dir():
        init_model(base, preset=args.preset, tokenizer=args.data / "tokenizers" / "llama2", seed=0)

    def save(found: Any) -> None:
        results = json.loads(RESULTS.read_bytes()) if RESULTS.is_file() else {}
        results[args.stage] = found
        RESULTS.write_text(json.dumps(results, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")

    if args.stage == "tokens":
        save(tokens(args.data, args.work, base))
    elif args.stage == "pretrain":
        save({"preset": args.preset, **pretrain(args.data, args.work, base, args.steps or 300)})
    else:
        save(rows(args.work, base, args.steps or 16, args.seeds, save))


if __name__ == "__main__":
    main()
