"""The files that ship with hantune: what the texts hold, and that both tokenizers agree on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sentencepiece as spm
from transformers import AutoTokenizer

from hantune import assets

AWKWARD = [
    "",
    "  两个空格开头",
    "[INST] 你好 [/INST] 你好呀",
    "<<SYS>>\n换行\n<</SYS>>\n\n",
    "2024年 12.5%",
    "笑脸😀",
    "龘和𠮷",
]


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


DIALOGUES = [row["messages"] for row in rows(assets.dialogues_path())]
PERSONA = [row["messages"] for row in rows(assets.persona_path())]
QUESTIONS = rows(assets.persona_questions_path())
TEXTS = [message["content"] for messages in DIALOGUES + PERSONA for message in messages]


@pytest.fixture(scope="module")
def sp() -> spm.SentencePieceProcessor:
    # The bytes rather than the path: SentencePiece cannot open every path on every platform.
    return spm.SentencePieceProcessor(model_proto=(assets.tokenizer_path() / "tokenizer.model").read_bytes())


@pytest.fixture(scope="module")
def hf() -> Any:
    return AutoTokenizer.from_pretrained(assets.tokenizer_path())


def asked(dialogues: list[list[dict[str, str]]]) -> set[str]:
    return {message["content"] for messages in dialogues for message in messages if message["role"] == "user"}


def test_counts() -> None:
    assert len(DIALOGUES) >= 460
    assert len(PERSONA) >= 64
    assert len(QUESTIONS) == 12
    turns = [len(messages) // 2 for messages in DIALOGUES]
    assert set(turns) == {1, 2, 3}


@pytest.mark.parametrize("dialogues", [DIALOGUES, PERSONA], ids=["dialogues", "persona"])
def test_roles_alternate_and_first_questions_differ(dialogues: list[list[dict[str, str]]]) -> None:
    for messages in dialogues:
        assert [message["role"] for message in messages] == ["user", "assistant"] * (len(messages) // 2)
        assert len(messages) >= 2
    first = [messages[0]["content"] for messages in dialogues]
    assert len(first) == len(set(first))


def test_every_text_is_clean_and_gbk_can_write_it() -> None:
    for text in TEXTS + [question["prompt"] for question in QUESTIONS]:
        assert text
        assert text == text.strip()
        assert text.encode("gbk").decode("gbk") == text


def test_answers_are_short_and_punctuated() -> None:
    answers = [m["content"] for messages in DIALOGUES + PERSONA for m in messages if m["role"] == "assistant"]
    assert [a for a in answers if not 6 <= len(a) <= 40 or a[-1] not in "。！？～"] == []


def test_only_the_persona_file_knows_the_persona() -> None:
    assert not any("小调" in message["content"] for messages in DIALOGUES for message in messages)
    answers = [m["content"] for messages in PERSONA for m in messages if m["role"] == "assistant"]
    in_voice = [a for a in answers if "小调" in a or a.endswith(("呀", "～", "呀。", "呀！"))]
    assert len(in_voice) >= 0.8 * len(answers)


def test_questions_say_truly_what_was_taught() -> None:
    persona, everything = asked(PERSONA), asked(PERSONA) | asked(DIALOGUES)
    taught = [question["prompt"] for question in QUESTIONS if question["taught"] is True]
    untaught = [question["prompt"] for question in QUESTIONS if question["taught"] is False]
    assert (len(taught), len(untaught)) == (6, 6)
    assert set(taught) <= persona
    assert not set(untaught) & everything


def test_layout_of_the_ids(sp: spm.SentencePieceProcessor, hf: Any) -> None:
    assert sp.get_piece_size() == len(hf) == 6144
    assert (sp.unk_id(), sp.bos_id(), sp.eos_id(), sp.pad_id()) == (0, 1, 2, 259)
    assert (hf.unk_token_id, hf.bos_token_id, hf.eos_token_id, hf.pad_token_id) == (0, 1, 2, 259)
    assert hf.pad_token == "<pad>"
    assert sp.is_control(259)
    assert [sp.id_to_piece(number) for number in (3, 258)] == ["<0x00>", "<0xFF>"]
    assert hf.convert_ids_to_tokens(list(range(6144))) == [sp.id_to_piece(number) for number in range(6144)]
    assert hf.chat_template is None
    assert hf("你好").input_ids[0] == hf.bos_token_id


def test_every_common_character_is_one_piece(sp: spm.SentencePieceProcessor) -> None:
    codes = [bytes((row, cell)) for row in range(0xB0, 0xD8) for cell in range(0xA1, 0xFF)]
    han = [text for text in (code.decode("gb2312", errors="ignore") for code in codes) if text]
    assert len(han) == 3755
    wanted = han + list("，。！？、；：“”‘’（）《》【】…—～") + [chr(code) for code in range(0x21, 0x7F)]
    assert [text for text in wanted if sp.piece_to_id(text) == sp.unk_id()] == []


def test_both_tokenizers_agree_and_give_the_text_back(sp: spm.SentencePieceProcessor, hf: Any) -> None:
    for text in TEXTS + AWKWARD:
        ids = sp.encode(text)
        assert hf(text, add_special_tokens=False).input_ids == ids, text
        assert sp.decode(ids) == text
        assert hf.decode(ids) == text
        assert sp.unk_id() not in ids


@pytest.mark.parametrize("text", ["😀", "龘", "𠮷"])
def test_what_is_no_piece_becomes_bytes(sp: spm.SentencePieceProcessor, text: str) -> None:
    ids = sp.encode(text)
    assert [sp.is_byte(number) for number in ids] == [False] + [True] * len(text.encode("utf-8"))
    assert sp.decode(ids) == text


def test_tokens_per_character(sp: spm.SentencePieceProcessor) -> None:
    texts = [message["content"] for messages in DIALOGUES for message in messages]
    assert sum(len(sp.encode(text)) for text in texts) <= 1.15 * sum(map(len, texts))


def test_saved_again_it_is_the_same_tokenizer(hf: Any, tmp_path: Path) -> None:
    hf.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again.pad_token_id == hf.pad_token_id
    assert all(again(text).input_ids == hf(text).input_ids for text in AWKWARD + TEXTS[:200])


def test_folder_is_small_and_names_no_machine() -> None:
    files = list(assets.tokenizer_path().iterdir())
    assert {file.name for file in files} == {"tokenizer.model", "tokenizer.json", "tokenizer_config.json"}
    assert sum(file.stat().st_size for file in files) < 700_000
    for file in files:
        data = file.read_bytes()
        assert not any(mark in data for mark in (b"/work", b"/home", b"/tmp", b"/Users", b"C:\\"))
