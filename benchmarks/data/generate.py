"""A file like LCCC-base's training part: gzip JSON Lines, an array of word-segmented utterances a line.

    python benchmarks/data/generate.py --out lccc.jsonl [--dialogues 1000000] [--seed 0]

Made of nothing but the seed. As in LCCC-base (thu-coai/CDial-GPT): 2.94 utterances a dialogue, 51 % of them pairs,
34 characters a dialogue; words of one to four characters parted by blanks, a Zipf law over words; some Latin words,
digits, emoji and full-width marks; 6 in 100 utterances hold a character that is no Han character or mark. The Han
characters are the first level of GB 2312, the commoner the more of them stand in hantune's own dialogues.
"""

from __future__ import annotations

import argparse
import gzip
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import orjson

BATCH = 20_000
OWN = Path(__file__).parents[2] / "hantune" / "assets" / "dialogues.jsonl"
WORDS = 20_000
WORD_LENGTHS = (0.46, 0.46, 0.05, 0.03)
"""Shares of words of one to four characters."""
TURNS = {2: 0.51, 3: 0.24, 4: 0.12, 5: 0.06, 6: 0.03, 7: 0.02, 8: 0.01, 10: 0.005, 12: 0.005}
"""Utterances a dialogue -> share; the mean is 2.94."""
MEDIAN_WORDS, SPREAD = 6.2, 0.62
"""Words an utterance, log-normal: 11.6 characters on average, as in LCCC-base."""
MARKS = ("，", "。", "！", "？", "~", "……", "、", "：")
LATIN = ("ok", "vip", "T", ".", "qq", "a", "hello", "the", "Mayday", "iPhone", "app", "2", "10", "2020", "8", "666")
RARE = ("😂", "😭", "👍", "龘", "🐶", "㎡", "é", "囧")


def vocabulary(draw: np.random.Generator) -> list[str]:
    """Words in the order of their frequency."""
    common = Counter(OWN.read_text(encoding="utf-8"))
    han = [bytes([high, low]).decode("gb2312") for high in range(0xB0, 0xD7) for low in range(0xA1, 0xFA)]
    letters = np.array(sorted(han, key=lambda letter: (-common[letter], letter)))
    weights = 1 / (np.arange(len(letters)) + 20) ** 1.25
    shares = weights / weights.sum()
    sizes = draw.choice(4, size=WORDS, p=WORD_LENGTHS) + 1
    words = ["".join(draw.choice(letters, size=size, p=shares)) for size in sizes]
    for every, extra in ((8, MARKS), (300, LATIN), (900, RARE)):
        for number, word in enumerate(extra):
            words[(number + 1) * every] = word
    return words


def dialogues(count: int, seed: int) -> Iterator[list[str]]:
    """Dialogues, each a list of segmented utterances."""
    draw = np.random.default_rng(seed)
    words = np.array(vocabulary(draw), dtype=object)
    weights = 1 / (np.arange(WORDS) + 12)
    weights = np.cumsum(weights / weights.sum())
    for start in range(0, count, BATCH):
        turns = draw.choice(list(TURNS), size=min(BATCH, count - start), p=list(TURNS.values()))
        sizes = np.clip(draw.lognormal(np.log(MEDIAN_WORDS), SPREAD, size=turns.sum()), 1, 120).astype(int)
        chosen = words[np.minimum(np.searchsorted(weights, draw.random(sizes.sum())), WORDS - 1)].tolist()
        ends = np.cumsum(sizes).tolist()
        utterances = [" ".join(chosen[a:b]) for a, b in zip([0, *ends], ends, strict=False)]
        ends = np.cumsum(turns).tolist()
        yield from (utterances[a:b] for a, b in zip([0, *ends], ends, strict=False))


def write(path: Path, count: int, seed: int = 0) -> None:
    """One dialogue a line; gzipped where the name ends in ``.gz``."""
    with gzip.open(path, "wb", compresslevel=1) if path.suffix == ".gz" else path.open("wb") as file:
        for dialogue in dialogues(count, seed):
            file.write(orjson.dumps(dialogue, option=orjson.OPT_APPEND_NEWLINE))


def main() -> None:
    """Write the file that the arguments describe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--dialogues", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    write(given.out, given.dialogues, given.seed)


if __name__ == "__main__":
    main()
