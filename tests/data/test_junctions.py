"""Borders are borders: for every family of tokenizers, every cut that is allowed changes no id."""

from __future__ import annotations

import copy
import functools
import itertools
import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hantune.data.borders import EDGE, WIDE, Borders, to_points
from hantune.data.junctions import FAMILIES, Family, byte_level_alphabet, find_borders
from hantune.data.tokens import WITHOUT_PREFIX, Encoder
from tests.conftest import SENTENCES
from tests.data.dialogues import changed, encoder_of
from tests.laws import examples

NAMES = ("llama3", "qwen2", "gpt2", "bloom")
CLASSES = ("好世Aſlré", "12²", "\r\n", " \t\u3000", "'，!😀_|(\u0301")
"""Characters of each class: letters, numbers, line ends, blanks, the rest."""
PARTS = (
    "'", "'s", "'re", "'LL", "''", "'ſ", "r", "e", "l", "ab", " ", "  ", "\n", "\r\n", "\t", "\u3000", "1", "23", "²",
    "٣", "好", "你好", "世界", "一丁七", "，", "。", "！", "!?", "…", "(", "|", "ー", "カ", "é", "e\u0301", "\u0301",
    "각", "\u1100\u1161\u11a8", "Å", "\u212b", "\uf900", "😀", "👨\u200d👩", "\U00020000", "\0", "ا", "।", "\ufffd",
    "\x80", "</s>", "<think>", "<thi", "nk>", "<s>",
)  # fmt: skip
texts = st.lists(st.sampled_from(PARTS) | st.text(max_size=3), min_size=1, max_size=9).map("".join)
HARD = [chr(0x4E00 + number) for number in range(20)] + list("ab '1，\nー")


def splitter_of(family: Family) -> Any:
    from tokenizers import Regex
    from tokenizers.pre_tokenizers import Split

    return Split(Regex(family.expression), "isolated")


def byte_level(name: str, size: int, lines: list[str], *, within_words: bool = True) -> Any:
    """A tokenizer of a family, trained on the spot; ``within_words`` False: with tokens across words as well."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, trainers
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(ByteLevel.alphabet())
    bare = ByteLevel(add_prefix_space=False, use_regex=False)
    whole: Any = ByteLevel(add_prefix_space=False, use_regex=True)
    if name != "gpt2":
        split = Split(Regex(FAMILIES[NAMES.index(name)].expression), "isolated")
        whole = Sequence([split, bare])
    core = Tokenizer(BPE())
    core.normalizer = normalizers.NFC() if name == "qwen2" else None
    core.pre_tokenizer, core.decoder = whole if within_words else bare, decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False, min_frequency=1)
    core.train_from_iterator(lines, trainer)
    core.pre_tokenizer = whole
    core.add_special_tokens([AddedToken(token, normalized=False) for token in ("<s>", "</s>", "<pad>")])
    if name == "qwen2":
        core.add_tokens([AddedToken("<think>", normalized=False)])
    if name == "llama3":
        core = Tokenizer.from_str(json.dumps(_as_llama_3(json.loads(core.to_str()))))
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


def _as_llama_3(plan: dict[str, Any]) -> dict[str, Any]:
    """``ignore_merges``, merges for all ways to make a token, and tokens that no merge makes."""
    model = plan["model"]
    vocabulary = model["vocab"]
    ways = [
        (vocabulary[token], token[:i], token[i:])
        for token in vocabulary
        for i in range(1, len(token))
        if token[:i] in vocabulary and token[i:] in vocabulary
    ]
    model["merges"] = [[left, right] for _, left, right in sorted(ways)]
    model["ignore_merges"] = True
    letters = byte_level_alphabet()
    for word in ("一丁七", "世界", "好", " 好"):
        token = "".join(letters[byte] for byte in word.encode())
        vocabulary.setdefault(token, len(vocabulary) + len(plan["added_tokens"]))
    return plan


def _hard_lines() -> list[str]:
    draw = random.Random(0)
    return ["".join(draw.choices(HARD, k=60)) for _ in range(60)]


@pytest.fixture(scope="session", params=[*NAMES, *(f"{name}-hard" for name in NAMES)])
def encoder(request: pytest.FixtureRequest) -> Encoder:
    """Each family with everyday merges, and with merges across everything, parts of characters among them."""
    name, _, hard = request.param.partition("-")
    lines = _hard_lines() if hard else list(SENTENCES)
    return Encoder(byte_level(name, 900, lines, within_words=not hard))


def borders_of(encoder: Encoder) -> Borders:
    """The tables, which are proved and not those of whole texts."""
    borders = find_borders(json.loads(encoder._pair[0].to_str()), encoder._pair[1], list(encoder.control_points))
    assert borders is not None
    encoder.borders = borders
    return borders


def assert_same(encoder: Encoder, given: list[str]) -> None:
    filler = "好" * 300  # enough for the tables to be used
    slow = [list(each.ids) for each in encoder._pair[1].encode_batch([*given, filler], add_special_tokens=False)]
    assert encoder._encode_texts(WITHOUT_PREFIX, [*given, filler]) == slow


@given(given=st.lists(texts, min_size=1, max_size=6))
@examples(40, 150)
def test_tables_say_what_the_tokenizer_says(given: list[str], encoder: Encoder) -> None:
    if "borders" not in vars(encoder):
        borders_of(encoder)
    assert_same(encoder, given)


@given(given=st.lists(st.text(HARD, min_size=1, max_size=12), min_size=1, max_size=6))
@examples(40, 150)
def test_merges_across_everything(given: list[str], encoder: Encoder) -> None:
    if "borders" not in vars(encoder):
        borders_of(encoder)
    assert_same(encoder, given)


def test_words_are_short(encoder: Encoder) -> None:
    """The tables find borders in running Chinese, not only the ends of texts."""
    borders = borders_of(encoder)
    assert borders._joined(to_points("龘，水火，山川，靐")).sum() <= 4


@pytest.mark.parametrize("name", NAMES)
@given(left=texts, right=texts)
@examples(80, 300)
def test_a_cut_keeps_what_the_expression_splits(name: str, left: str, right: str) -> None:
    family = FAMILIES[NAMES.index(name)]
    class_of = _classes_of(family)
    if not (left and right and {left[-1], right[0]} <= class_of.keys()) or "'" in left[-3:] + right[:1]:
        return
    rule = family.borders[class_of[left[-1]]][class_of[right[0]]]
    splitter = splitter_of(family)
    whole = [piece for piece, _ in splitter.pre_tokenize_str(left + right)]
    halves = [piece for half in (left, right) for piece, _ in splitter.pre_tokenize_str(half)]
    if rule == "|":
        assert halves == whole
    if rule == "?":
        number = len(splitter.pre_tokenize_str(left))
        joined = [*halves[: number - 1], halves[number - 1] + halves[number], *halves[number + 1 :]]
        assert whole in (halves, joined)


@pytest.mark.parametrize("name", NAMES)
@given(word=st.text(st.sampled_from("好世aſ12²\r\n \t\u3000，!😀_|"), min_size=2, max_size=5))
@examples(100, 400)
def test_a_word_that_merges_join_is_not_split(name: str, word: str) -> None:
    family = FAMILIES[NAMES.index(name)]
    class_of = _classes_of(family)
    rules = {family.borders[class_of[left]][class_of[right]] for left, right in itertools.pairwise(word)}
    if rules <= {"?", "="}:
        assert len(splitter_of(family).pre_tokenize_str(word)) == 1


@functools.cache
def _classes_of(family: Family) -> dict[str, int]:
    """Character -> class, for the characters of ``PARTS`` and ``CLASSES``."""
    from tokenizers import Regex
    from tokenizers.pre_tokenizers import Split

    found: dict[str, int] = {}
    for letter in set("".join([*PARTS, *CLASSES])):
        matching = [not Split(Regex(each), "removed").pre_tokenize_str(letter) for each in family.classes]
        found[letter] = matching.index(True) if True in matching else len(matching)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_every_class_is_met(name: str) -> None:
    family = FAMILIES[NAMES.index(name)]
    met = set(_classes_of(family).values())
    assert met == set(range(len(family.classes) + 1))
    assert [len(row) for row in family.borders] == [len(met)] * len(met)


def _merging(name: str, *merges: tuple[str, str]) -> Encoder:
    """A tokenizer of a family with no merges but these."""
    tokenizer = byte_level(name, 256, [])

    def change(plan: dict[str, Any]) -> None:
        for left, right in merges:
            plan["model"]["vocab"][left + right] = 999 + len(plan["model"]["vocab"])
        plan["model"]["merges"] = [list(pair) for pair in merges]

    encoder = Encoder(changed(tokenizer, change))
    borders_of(encoder)
    return encoder


def test_contractions_stay_whole() -> None:
    assert_same(_merging("gpt2", ("e", "a"), ("s", "a")), ["'real", "x'real", "'sa", "y'sad"])


def test_what_a_mark_turns_a_letter_into_may_be_joined() -> None:
    encoder = _merging("qwen2", ("w", "Ã"), ("wÃ", "©"))
    assert len(encoder._ids(WITHOUT_PREFIX, "we\u0301")) == 1
    assert_same(encoder, ["we\u0301", "awe\u0301b"])


def test_no_border_near_an_apostrophe(byte_tokenizer: Any) -> None:
    borders = encoder_of(byte_tokenizer).borders
    assert borders is not None
    assert borders._right[ord("'")] == WIDE
    assert borders._left[ord("好")] not in (EDGE, WIDE)


def _change_expression(plan: dict[str, Any]) -> None:
    plan["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] += "|x"


def _change_behavior(plan: dict[str, Any]) -> None:
    plan["pre_tokenizer"]["pretokenizers"][0]["behavior"] = "MergedWithNext"


def _put_a_blank_before(plan: dict[str, Any]) -> None:
    plan["pre_tokenizer"]["pretokenizers"][1]["add_prefix_space"] = True


def _split_twice(plan: dict[str, Any]) -> None:
    plan["pre_tokenizer"]["pretokenizers"][1]["use_regex"] = True


def _change_normalizer(plan: dict[str, Any]) -> None:
    plan["normalizer"] = {"type": "NFKC"}


def _take_a_byte(plan: dict[str, Any]) -> None:
    del plan["model"]["vocab"]["A"]


def _swallow_blanks(plan: dict[str, Any]) -> None:
    word = {"id": 9999, "content": "<tool>", "special": False, "normalized": False, "single_word": False}
    plan["added_tokens"].append(word | {"lstrip": True, "rstrip": False})


def _drop_merges(plan: dict[str, Any]) -> None:
    plan["model"]["dropout"] = 0.1


BREAKS: tuple[Callable[[dict[str, Any]], None], ...] = (
    _change_expression, _change_behavior, _put_a_blank_before, _split_twice, _change_normalizer, _take_a_byte,
    _swallow_blanks, _drop_merges,
)  # fmt: skip


@pytest.fixture(scope="session")
def llama3() -> Encoder:
    return Encoder(byte_level("llama3", 400, list(SENTENCES)))


@pytest.mark.parametrize("change", BREAKS)
def test_tokenizers_that_break_a_condition_have_none(change: Any, llama3: Encoder) -> None:
    plan = json.loads(llama3._pair[0].to_str())
    assert find_borders(plan, llama3._pair[1], []) is not None
    broken = copy.deepcopy(plan)
    change(broken)
    assert find_borders(broken, llama3._pair[1], []) is None


def test_a_tokenizer_that_breaks_one_still_encodes(llama3: Encoder) -> None:
    other = Encoder(changed(llama3.tokenizer, _change_expression))
    assert other.borders is not None
    assert_same(other, ["你好，世界", "xx don't", "你好，世界"])
