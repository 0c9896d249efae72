"""The measures against values worked out by hand, and the laws they keep."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hantune.evaluate import metrics

WORDS = st.text(alphabet="你好吗a b", max_size=12)


def test_bleu_by_hand() -> None:
    """5 of 6, 4 of 5, 3 of 4, 2 of 3 n-grams match; equal lengths: (5/6 * 4/5 * 3/4 * 2/3) ** 0.25 = 0.7598."""
    assert metrics.bleu(["今天天气很好"], ["今天天气很坏"]) == pytest.approx(100 * (1 / 3) ** 0.25, abs=1e-6)
    assert metrics.bleu(["你好，很高兴认识你"], ["你好，很高兴认识你"]) == pytest.approx(100)
    assert metrics.bleu([], []) == 0


def test_rouge_l_by_hand() -> None:
    """LCS of 我爱你们 and 我很爱你 is 我爱你: precision 3/4, recall 3/4."""
    assert metrics.rouge_l(["我爱你们"], ["我很爱你"]) == pytest.approx(75)
    assert metrics.rouge_l(["我 爱你", "不"], ["我爱你", "是"]) == pytest.approx(50)
    assert metrics.rouge_l([""], [""]) == 100
    assert metrics.rouge_l([], []) == 0


def test_chrf_of_equal_and_foreign_texts() -> None:
    assert metrics.chrf(["今天天气很好"], ["今天天气很好"]) == pytest.approx(100)
    assert metrics.chrf(["甲乙丙"], ["子丑寅"]) == 0
    assert metrics.chrf([], []) == 0


@given(a=WORDS, b=WORDS)
def test_common_subsequence_equals_the_textbook_table(a: str, b: str) -> None:
    row = [0] * (len(b) + 1)
    for x in a:
        previous, row = row, [0]
        for j, y in enumerate(b):
            row.append(previous[j] + 1 if x == y else max(previous[j + 1], row[-1]))
    assert metrics.common_subsequence(a, b) == row[-1]


def test_distinct_by_hand() -> None:
    assert metrics.distinct(["哈哈哈"], 1) == pytest.approx(1 / 3)
    assert metrics.distinct(["你好", "你 好吗"], 2) == pytest.approx(2 / 3)  # 你好 你好 好吗
    assert metrics.distinct(["a"], 2) == 0


def test_chinese_share_by_hand() -> None:
    assert metrics.chinese_share(["你好, ok。"]) == pytest.approx(0.5)
    assert metrics.chinese_share(["，。！"]) == 0


@pytest.mark.parametrize(
    ("text", "loops"),
    [
        ("我不知道我不知道我不知道", True),
        ("我不知道我不知道", False),
        ("哈哈哈哈哈", False),
        ("哈" * 12, True),
        ("好的\n好的\n好的\n好的\n好的\n好的\n", True),
        ("", False),
    ],
)
def test_a_loop_is_a_piece_of_four_three_times(text: str, loops: bool) -> None:
    assert metrics.repetition([text]) == float(loops)


def test_shares_and_lengths_by_hand() -> None:
    assert metrics.stop_rate(["stop", "length", "stop", "stop"]) == 0.75
    assert metrics.exact_match(["好 的", "不"], ["好的", "是"]) == 0.5
    assert metrics.length_ratio(["四个字啊", ""], ["两个", "两个"]) == 1.0
    assert metrics.mean_length(["一二", "一二三四"]) == 3.0


@given(pairs=st.lists(st.tuples(WORDS, WORDS), max_size=4))
def test_every_measure_is_a_number_in_its_range(pairs: list[tuple[str, str]]) -> None:
    answers, references = [a for a, _ in pairs], [b for _, b in pairs]
    values = metrics.measure(answers, references, ["stop"] * len(pairs))
    assert values["count"] == len(pairs)
    assert all(0 <= values[name] <= 100.0001 for name in ("bleu", "rouge_l", "chrf"))
    shares = ("exact_match", "distinct_1", "distinct_2", "stop_rate", "chinese_share", "repetition", "empty_share")
    assert all(0 <= values[name] <= 1 for name in shares)
