"""In what language an utterance is, told by the scripts of its letters; for whole batches at once.

Digits, marks, blanks and emoji are no letters. At least 80 % Han letters: Chinese; 80 % Latin: English (or another
language written so); a fifth or more of other scripts (kana, Cyrillic, Hangul ...): other; the rest mixes Chinese and
English. Without any letter: none.
"""

from __future__ import annotations

import re
from functools import cache

import numpy as np

from hantune.data.counts import Array

HAN_RANGES = ((0x3400, 0x4DC0), (0x4E00, 0xA000), (0xF900, 0xFB00), (0x20000, 0x40000))
HAN = re.compile("[" + "".join(f"{chr(low)}-{chr(high - 1)}" for low, high in HAN_RANGES) + "]")
LATIN_RANGES = ((0x41, 0x5B), (0x61, 0x7B), (0xC0, 0xD7), (0xD8, 0xF7), (0xF8, 0x250), (0x1E00, 0x1F00),
                (0xFF21, 0xFF3B), (0xFF41, 0xFF5B))  # fmt: skip
LAST_LETTER = 0x20000
"""From here on there are Han letters only (and what nobody writes)."""
SCRIPTS = NO_LETTER, IS_HAN, IS_LATIN, IS_OTHER, IS_BLANK = range(5)
LANGUAGES = ("chinese", "mixed", "english", "other", "none")
"""What an utterance may be; ``languages`` gives places in this tuple."""
WORDS = {"chinese": "中文", "mixed": "中英混合", "english": "英文", "other": "其它文字", "none": "没有字"}
HOW = "按每句话里的字分: 汉字占八成以上是中文, 拉丁字母占八成以上是英文, 假名俄文等占两成以上是其它文字, 其余是中英混合"


@cache
def _table() -> Array:
    """The script of each code point (uint8)."""
    table = np.zeros(0x110000, np.uint8)
    letters = [chr(point) for point in range(LAST_LETTER)]
    table[:LAST_LETTER][[letter.isalpha() for letter in letters]] = IS_OTHER
    table[:LAST_LETTER][[letter.isspace() for letter in letters]] = IS_BLANK
    for ranges, script in ((HAN_RANGES, IS_HAN), (LATIN_RANGES, IS_LATIN)):
        for low, high in ranges:
            table[low:high] = script
    return table


def script_counts(points: Array, sizes: Array) -> Array:
    """How many characters of each script stand in each text; shape ``[N, 5]``.

    ``points``: the code points of all texts; ``sizes``: how many each has.
    """
    places = np.repeat(np.arange(len(sizes)) * len(SCRIPTS), sizes)
    counts = np.bincount(places + _table()[points], minlength=len(sizes) * len(SCRIPTS))
    return counts.reshape(len(sizes), len(SCRIPTS))


def languages(counts: Array) -> Array:
    """The language of each text as a place in ``LANGUAGES``; shape ``[N]``."""
    han, latin, other = counts[:, IS_HAN], counts[:, IS_LATIN], counts[:, IS_OTHER]
    letters = han + latin + other
    tests = [letters == 0, other * 5 >= letters, han * 5 >= letters * 4, latin * 5 >= letters * 4]
    names = ["none", "other", "chinese", "english"]
    return np.asarray(np.select(tests, [LANGUAGES.index(name) for name in names], LANGUAGES.index("mixed")))
