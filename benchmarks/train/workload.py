"""The work every tool is given: model, conversations, and what they are in hantune's tokens.

    python workload.py OUT --name lccc|alpaca --data SHARED_DATA [--dialogues 2000] [--preset 110m] [--seed 0]

    OUT/model OUT/model-bf16         a random Llama of the preset's shape with the real Llama 2 tokenizer; rounded
    OUT/train OUT/check              the conversations, and the first of them alone:
        messages.json                {"messages": [{"role", "content"}]}: what every tool reads
        tokens.json                  {"ids", "mask"} of each as hantune trains it: what every tool's tokens are held to
        dataset_info.json            the same file's entry for LLaMA-Factory
    OUT/facts.json                   counts

Runs in hantune's environment with the tree's folder in PYTHONPATH.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from pathlib import Path
from typing import Any

LAYOUTS: dict[str, dict[str, int]] = {
    "lccc": {"max_tokens": 512, "dialogues_per_step": 16},
    "alpaca": {"max_tokens": 1024, "dialogues_per_step": 8},
}
CHECKED = 32
"""Conversations that every tool trains alone, all in every step, for the agreement of losses."""
SPARE = 1.1


def raw_records(name: str, data: Path, count: int, seed: int) -> list[Any]:
    """A few more records than are wanted, in random order.

    LCCC-base is half dialogues of more than two utterances and half pairs; the toy files hold 1,000 of the first kind.
    """
    draw = random.Random(seed)
    if name == "alpaca":
        records = json.loads((data / "alpaca" / "alpaca_zh_1000.json").read_bytes())
    else:
        wanted = round(count / 2 * SPARE)
        dialogues = json.loads((data / "lccc" / "lccc_toy_split.json").read_bytes())["train"]
        lines = (data / "lccc" / "lccc_toy_pairs.txt").read_text(encoding="utf-8").splitlines()
        pairs = [line.split("\t") for line in lines]
        records = [*draw.sample(dialogues, min(wanted, len(dialogues))), *draw.sample(pairs, wanted)]
    draw.shuffle(records)
    return records


def conversations(records: list[Any], encoder: Any, max_tokens: int) -> list[tuple[Any, Any]]:
    """(messages, example) of what hantune keeps of the records; too long ones are left out for all tools alike."""
    from hantune.data.prepare import prepare
    from hantune.data.prepared import open_prepared
    from hantune.data.templates import get_template

    template = get_template("llama2")
    found = []
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "raw.json"
        raw.write_text(json.dumps(records, ensure_ascii=False), encoding="utf-8")
        prepare([str(raw)], Path(folder) / "prepared", val_share=0.0)
        for conversation in open_prepared(Path(folder) / "prepared").conversations("train"):
            example = encoder.encode(template.render(conversation.messages, encoder.marks))
            if len(example.ids) <= max_tokens and encoder.pad_id not in example.ids:
                found.append(([{"role": m.role, "content": m.text.strip()} for m in conversation.messages], example))
    return found


def write_part(folder: Path, kept: list[tuple[Any, Any]]) -> None:
    """One set of conversations in every layout."""
    folder.mkdir()
    columns = {"messages": "messages"}
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    entry = {"file_name": "messages.json", "formatting": "sharegpt", "columns": columns, "tags": tags}
    contents = {
        "messages.json": [{"messages": messages} for messages, _ in kept],
        "tokens.json": [{"ids": example.ids, "mask": example.mask} for _, example in kept],
        "dataset_info.json": {"workload": entry},
    }
    for name, content in contents.items():
        (folder / name).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def facts(kept: list[tuple[Any, Any]], model: Path, name: str, dialogues_per_step: int) -> dict[str, Any]:
    """Counts of the epoch, and how the peers pack it."""
    lengths = sorted(len(example.ids) for _, example in kept)
    tokens, supervised = sum(lengths), sum(sum(example.mask) for _, example in kept)
    layout = {**LAYOUTS[name], **({"dialogues_per_step": dialogues_per_step} if dialogues_per_step else {})}
    per_step = tokens / len(kept) * layout["dialogues_per_step"]
    row_tokens = -(-max(per_step / 2, lengths[-1] + 1) // 8) * 8  # LLaMA-Factory packs right only into multiples of 8
    return {
        "name": name,
        **layout,
        "dialogues": len(kept),
        "tokens": tokens,
        "supervised": supervised,
        "length": {"p5": lengths[len(kept) // 20], "p50": lengths[len(kept) // 2], "p95": lengths[-len(kept) // 20]},
        "longest": lengths[-1],
        "row_tokens": int(row_tokens),
        "rows_per_step": max(1, round(per_step / row_tokens)),
        "checked": min(CHECKED, len(kept)),
        "weights": matrix_weights(model),
    }


def matrix_weights(model: Path) -> dict[str, int]:
    """Weights in matrix products: of the layers, and of the head (whose matrix may be the embedding's)."""
    from hantune.models.outline import outline, skeleton

    bare = skeleton(model)
    linear = set(outline(bare).linear)
    layers = sum(parameter.numel() for name, parameter in bare.named_parameters() if name in linear)
    return {"layers": layers, "head": bare.get_output_embeddings().weight.numel()}


def name_padding(config: Path) -> None:
    """Give the tokenizer a padding token: without one the peers take ``</s>``, and padding could not be counted."""
    settings = json.loads(config.read_bytes())
    config.write_text(json.dumps({**settings, "pad_token": settings["unk_token"]}), encoding="utf-8")


def build(given: argparse.Namespace) -> dict[str, Any]:
    """Write everything; returns the facts."""
    from hantune.data.tokens import Encoder
    from hantune.models.init import init_model
    from hantune.models.load import load_tokenizer

    out, model = given.out, given.out / "model"
    out.mkdir(parents=True, exist_ok=True)
    for folder, dtype in ((model, "float32"), (out / "model-bf16", "bfloat16")):
        if not folder.exists():
            tokenizer = given.data / "tokenizers" / "llama2"
            init_model(folder, preset=given.preset, tokenizer=tokenizer, seed=given.seed, dtype=dtype)
            name_padding(folder / "tokenizer_config.json")
    encoder = Encoder(load_tokenizer(model))
    records = raw_records(given.name, given.data, given.dialogues + given.held_out, given.seed)
    kept = conversations(records, encoder, LAYOUTS[given.name]["max_tokens"])
    random.Random(given.seed).shuffle(kept)  # a record with several conversations leaves them side by side
    held_out, kept = kept[: given.held_out], kept[given.held_out :][: given.dialogues]
    write_part(out / "train", kept)
    write_part(out / "check", kept[:CHECKED])
    if held_out:
        write_part(out / "val", held_out)
    options = {key: value for key, value in vars(given).items() if key not in ("out", "data")}
    found = {**facts(kept, model, given.name, given.dialogues_per_step), "options": options}
    (out / "facts.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--name", choices=LAYOUTS, default="lccc")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--dialogues", type=int, default=2000, help="at most; alpaca has fewer")
    parser.add_argument("--held-out", type=int, default=0, help="more of them, in OUT/val")
    parser.add_argument("--dialogues-per-step", type=int, default=0, help="0: the workload's own")
    parser.add_argument("--preset", default="110m")
    parser.add_argument("--seed", type=int, default=0)
    print(json.dumps(build(parser.parse_args())))


if __name__ == "__main__":
    main()
