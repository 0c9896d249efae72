"""Measures of answers: pure functions of lists of texts. Chinese is measured by the character, white space aside.

BLEU, ROUGE-L and chrF are out of 100; shares are between 0 and 1.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
LOOP = re.compile(r"(.{4,100}?)\1\1", re.DOTALL)
"""A piece of at least four characters, three times in a row."""


def characters(text: str) -> str:
    """``text`` without white space: what is counted and compared."""
    return "".join(text.split())


def bleu(answers: Sequence[str], references: Sequence[str]) -> float:
    """BLEU-4 of the whole list over characters (words, where the text is not Chinese), 0 to 100.

    Source: sacrebleu, tokenizer ``zh``.
    """
    if not answers:
        return 0.0
    from sacrebleu.metrics.bleu import BLEU

    return float(BLEU(tokenize="zh").corpus_score(list(answers), [list(references)]).score)


def chrf(answers: Sequence[str], references: Sequence[str]) -> float:
    """chrF of the whole list: F2 over character n-grams up to 6, 0 to 100. Source: sacrebleu, Popovic 2015."""
    if not answers:
        return 0.0
    from sacrebleu.metrics.chrf import CHRF

    return float(CHRF().corpus_score(list(answers), [list(references)]).score)


def rouge_l(answers: Sequence[str], references: Sequence[str]) -> float:
    """Mean F1 of the longest common subsequence of characters, 0 to 100. Source: Lin 2004, with beta 1."""
    pairs = [(characters(a), characters(r)) for a, r in zip(answers, references, strict=True)]
    return 100 * _mean([_overlap_f1(answer, reference) for answer, reference in pairs])


def _overlap_f1(answer: str, reference: str) -> float:
    """``2 LCS / (|answer| + |reference|)``, which is the F1 of LCS precision and recall; 1 for two empty texts."""
    total = len(answer) + len(reference)
    return 2 * common_subsequence(answer, reference) / total if total else 1.0


def common_subsequence(a: str, b: str) -> int:
    """The length of the longest common subsequence, in O(len(b)) operations on integers of len(a) bits.

    Source: Hyyrö 2004, "Bit-parallel LCS-length computation revisited".
    """
    places: dict[str, int] = {}
    for position, character in enumerate(a):
        places[character] = places.get(character, 0) | 1 << position
    everything = (1 << len(a)) - 1
    row = everything
    for character in b:
        match = row & places.get(character, 0)
        row = (row + match | row - match) & everything
    return len(a) - row.bit_count()


def distinct(texts: Sequence[str], n: int) -> float:
    """Different character n-grams over all n-grams of the list, 0 to 1. Source: Li et al. 2016, with characters."""
    grams = [text[i : i + n] for text in map(characters, texts) for i in range(len(text) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


def chinese_share(texts: Sequence[str]) -> float:
    """Han characters over all characters that are letters, digits or Han; punctuation belongs to no language."""
    spoken = [character for text in texts for character in text if character.isalnum()]
    return sum(bool(HAN.match(character)) for character in spoken) / len(spoken) if spoken else 0.0


def repetition(texts: Sequence[str]) -> float:
    """The share of texts that hang in a loop: a piece of four characters or more, three times in a row."""
    return _mean([bool(LOOP.search(characters(text))) for text in texts])


def stop_rate(finish_reasons: Sequence[str]) -> float:
    """The share of answers that ended by themselves."""
    return _mean([reason == "stop" for reason in finish_reasons])


def exact_match(answers: Sequence[str], references: Sequence[str]) -> float:
    """The share of answers that are their reference, white space aside."""
    return _mean([characters(a) == characters(r) for a, r in zip(answers, references, strict=True)])


def length_ratio(answers: Sequence[str], references: Sequence[str]) -> float:
    """Characters of all answers over characters of all references; 0 without references."""
    wanted = sum(len(characters(text)) for text in references)
    return sum(len(characters(text)) for text in answers) / wanted if wanted else 0.0


def mean_length(texts: Sequence[str]) -> float:
    """Characters per text."""
    return _mean([len(characters(text)) for text in texts])


def measure(answers: Sequence[str], references: Sequence[str], finish_reasons: Sequence[str]) -> dict[str, Any]:
    """Every measure by its name, rounded to four places so that equal runs give equal files."""
    values = {
        "bleu": bleu(answers, references),
        "rouge_l": rouge_l(answers, references),
        "chrf": chrf(answers, references),
        "exact_match": exact_match(answers, references),
        "distinct_1": distinct(answers, 1),
        "distinct_2": distinct(answers, 2),
        "stop_rate": stop_rate(finish_reasons),
        "chinese_share": chinese_share(answers),
        "repetition": repetition(answers),
        "empty_share": _mean([not characters(text) for text in answers]),
        "length_ratio": length_ratio(answers, references),
        "mean_length": mean_length(answers),
    }
    return {name: round(value, 4) for name, value in values.items()} | {"count": len(answers)}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
