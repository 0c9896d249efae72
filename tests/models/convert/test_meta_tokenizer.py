"""Meta's tokenizer files: the converted ones give the ids that SentencePiece and tiktoken's rule give."""

from __future__ import annotations

import base64
import json
import random
from pathlib import Path
from typing import Any

import pytest
import regex
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from hantune.errors import ModelError
from hantune.models.convert.meta_tokenizer import (
    PATTERN,
    PROBES,
    find_tokenizer,
    is_tiktoken,
    read_ranks,
    special_names,
    write_tokenizer,
)
from hantune.models.load import load_tokenizer
from tests.conftest import SENTENCES
from tests.laws import examples


def lowest_rank_first(ranks: dict[bytes, int], word: bytes) -> list[int]:
    """tiktoken's rule: join the neighbours whose union has the lowest rank, the leftmost first, until none has one."""
    if word in ranks:
        return [ranks[word]]
    parts = [word[i : i + 1] for i in range(len(word))]
    while True:
        found = [(ranks[a + b], i) for i, (a, b) in enumerate(zip(parts, parts[1:], strict=False)) if a + b in ranks]
        if not found:
            return [ranks[part] for part in parts]
        _, place = min(found)
        parts[place : place + 2] = [parts[place] + parts[place + 1]]


@pytest.fixture(scope="module")
def llama_2(sentencepiece_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """(converted, SentencePiece's own)."""
    folder = tmp_path_factory.mktemp("llama2")
    write_tokenizer(sentencepiece_model, folder, context=4096, is_chat=False, is_late=False)
    return load_tokenizer(folder), sentencepiece.SentencePieceProcessor(model_file=str(sentencepiece_model))


@pytest.fixture(scope="module")
def llama_3(tiktoken_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, dict[bytes, int]]:
    folder = tmp_path_factory.mktemp("llama3")
    write_tokenizer(tiktoken_model, folder, context=8192, is_chat=False, is_late=False)
    return load_tokenizer(folder), {token: rank for rank, token in enumerate(read_ranks(tiktoken_model))}


TEXTS = st.text(st.sampled_from("你好 天气怎么样 \n\tab12 Hello的龘😀。▁"), max_size=30)


@given(TEXTS)
@examples(30, 100)
def test_ids_are_those_of_sentencepiece(llama_2: tuple[Any, Any], text: str) -> None:
    converted, own = llama_2
    assert converted.encode(text, add_special_tokens=False) == own.encode(text)


def test_ids_are_those_of_sentencepiece_on_prose(llama_2: tuple[Any, Any]) -> None:
    converted, own = llama_2
    for text in (*SENTENCES, *PROBES):
        assert converted.encode(text, add_special_tokens=False) == own.encode(text)
        assert converted.encode(text)[0] == own.bos_id() == 1


@given(TEXTS)
@examples(30, 100)
def test_ids_are_those_of_tiktoken(llama_3: tuple[Any, dict[bytes, int]], text: str) -> None:
    converted, ranks = llama_3
    expected = [i for word in regex.findall(PATTERN, text) for i in lowest_rank_first(ranks, word.encode())]
    ids = converted.encode(text, add_special_tokens=False)
    assert ids == expected
    assert converted.decode(ids) == text


def test_control_tokens_have_metas_ids() -> None:
    early, late = special_names(is_late=False), special_names(is_late=True)
    assert len(set(early)) == len(set(late)) == 256
    named = ("begin_of_text", "end_of_text", "start_header_id", "eot_id")
    assert [early.index(f"<|{name}|>") for name in named] == [0, 1, 6, 9]
    assert [early[n] for n in (5, 8, 10, -1)] == [f"<|reserved_special_token_{n}|>" for n in (3, 4, 5, 250)]
    assert late[4] == "<|finetune_right_pad_id|>"
    assert (late[8], late[10], late[11]) == ("<|eom_id|>", "<|python_tag|>", "<|reserved_special_token_3|>")
    assert late[-1] == "<|reserved_special_token_247|>"


def test_the_real_file_gives_the_real_tokenizer(
    shared_data: Path, tmp_path: Path, llama2_tokenizer: Any
) -> None:
    """The same ``tokenizer.json`` as Hugging Face publishes; ids that differ from SentencePiece's for no text."""
    source = shared_data / "tokenizers" / "llama2"
    marks = write_tokenizer(source / "tokenizer.model", tmp_path, context=4096, is_chat=True, is_late=False)
    ours, theirs = (json.loads((folder / "tokenizer.json").read_bytes()) for folder in (tmp_path, source))
    for plan in (ours, theirs):
        plan["model"]["merges"] = [" ".join(m) if isinstance(m, list) else m for m in plan["model"]["merges"]]
        plan["model"].pop("ignore_merges", None)
    assert ours == theirs
    converted = load_tokenizer(tmp_path)
    own = sentencepiece.SentencePieceProcessor(model_file=str(source / "tokenizer.model"))
    for text in (*PROBES, *SENTENCES, " a", "  two"):
        assert converted.encode(text, add_special_tokens=False) == own.encode(text)
    for text in ("习", "</s><s>习", "<s>[INST] 你  好 [/INST] a </s><s>[INST] b", *SENTENCES):
        assert converted.encode(text) == llama2_tokenizer.encode(text)
    assert (marks.num_ids, marks.bos, marks.eos, marks.ends) == (32000, 1, 2, (2,))


def test_files_are_found_and_told_apart(tmp_path: Path, sentencepiece_model: Path, tiktoken_model: Path) -> None:
    assert is_tiktoken(tiktoken_model)
    assert not is_tiktoken(sentencepiece_model)
    (tmp_path / "llama-2-7b").mkdir()
    with pytest.raises(ModelError, match="no-tokenizer"):
        find_tokenizer(tmp_path / "llama-2-7b")
    (tmp_path / "tokenizer.model").touch()  # where Meta's download script puts it
    assert find_tokenizer(tmp_path / "llama-2-7b") == tmp_path / "tokenizer.model"


@pytest.mark.parametrize("length", [0, 1, 100, 5000])
def test_broken_sentencepiece_files_are_refused(tmp_path: Path, sentencepiece_model: Path, length: int) -> None:
    for data in (sentencepiece_model.read_bytes()[:length], random.Random(length).randbytes(length), b"\0" * length):
        (tmp_path / "tokenizer.model").write_bytes(data)
        with pytest.raises(ModelError) as caught:
            write_tokenizer(tmp_path / "tokenizer.model", tmp_path, context=1, is_chat=False, is_late=False)
        assert caught.value.code == "model.bad-tokenizer"


@pytest.mark.parametrize("change", ["drop", "double", "gap", "garbage"])
def test_broken_tiktoken_files_are_refused(tmp_path: Path, tiktoken_model: Path, change: str) -> None:
    lines = tiktoken_model.read_bytes().splitlines()
    spoilt = {
        "drop": lines[1:], "double": [*lines, lines[300].split()[0] + b" %d" % len(lines)],
        "gap": [*lines, base64.b64encode(b"xyz") + b" 99999"], "garbage": [*lines, b"=== x"],
    }[change]  # fmt: skip
    path = tmp_path / "tokenizer.model"
    path.write_bytes(b"\n".join(spoilt))
    with pytest.raises(ModelError, match="bad-tokenizer"):
        write_tokenizer(path, tmp_path, context=1, is_chat=False, is_late=False)
