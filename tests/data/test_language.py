"""What a reader would call each utterance; the table agrees with the expression for Han letters everywhere."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hantune.data.borders import to_points
from hantune.data.language import HAN, HOW, IS_BLANK, IS_HAN, LANGUAGES, WORDS, languages, script_counts


def language_of(*texts: str) -> list[str]:
    counts = script_counts(to_points("".join(texts)), np.array([len(text) for text in texts]))
    return [LANGUAGES[place] for place in languages(counts).tolist()]


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("今天天气真好, 一起去爬山吧 666", "chinese"),
        ("𠮷野家在哪里", "chinese"),
        ("帮我用 Python 写一个排序", "mixed"),
        ("Could you translate 你好 into English, please?", "english"),
        ("déjà vu", "english"),
        ("ＶＩＰ", "english"),
        ("こんにちは、元気ですか", "other"),
        ("Привет, как дела", "other"),
        ("안녕하세요", "other"),
        ("12345 😀 !!!", "none"),
        ("", "none"),
    ],
)
def test_languages(text: str, language: str) -> None:
    assert language_of(text) == [language]
    assert language_of("你好", text, "hi") == ["chinese", language, "english"]


@given(st.lists(st.text(max_size=12), max_size=6))
def test_scripts_of_each_text(texts: list[str]) -> None:
    texts = [text.encode("utf-8", "ignore").decode() for text in texts]
    sizes = np.array([len(text) for text in texts], np.int64)
    counts = script_counts(to_points("".join(texts)), sizes)
    assert counts.sum(axis=1).tolist() == sizes.tolist()
    assert counts[:, IS_HAN].tolist() == [len(HAN.findall(text)) for text in texts]
    assert counts[:, IS_BLANK].tolist() == [sum(letter.isspace() for letter in text) for text in texts]


def test_words_fit_a_gbk_console() -> None:
    assert set(WORDS) == set(LANGUAGES)
    (HOW + "".join(WORDS.values())).encode("gbk")
