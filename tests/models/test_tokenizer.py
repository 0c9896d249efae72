"""Tokenizers: the pad is never the end, and no id ever changes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from hantune.errors import ModelError
from hantune.models.tokenizer import (
    choose_pad,
    copy_tokenizer,
    load_tokenizer,
    num_ids,
    read_chat_template,
    read_specials,
)

TEXTS = ("你好", "</s><s>习", "a</s> b\n\n龘", "[INST] <<SYS>>\n x", "  two  blanks ")


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | changes), encoding="utf-8")


@pytest.fixture
def sp_folder(sp_tokenizer_folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(sp_tokenizer_folder, tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


def test_an_own_pad_is_kept(sp_folder: Path) -> None:
    tokenizer = load_tokenizer(sp_folder)
    assert tokenizer.pad_token == "<pad>"
    assert choose_pad(tokenizer) == ("<pad>", "分词器自带")


@pytest.mark.parametrize("given", [None, "</s>"])
def test_a_missing_pad_or_one_that_is_the_end_is_replaced(sp_folder: Path, given: str | None) -> None:
    change_config(sp_folder, pad_token=given)
    tokenizer = load_tokenizer(sp_folder)
    assert tokenizer.pad_token == "<pad>"
    assert len(tokenizer) == len(AutoTokenizer.from_pretrained(sp_folder))


def test_llama_2_borrows_unk_and_no_id_changes(shared_data: Path) -> None:
    folder = shared_data / "tokenizers" / "llama2"
    plain = AutoTokenizer.from_pretrained(folder)
    reason = choose_pad(plain)[1]
    ours = load_tokenizer(folder)
    assert (ours.pad_token, ours.pad_token_id, len(ours), num_ids(ours)) == ("<unk>", 0, 32000, 32000)
    assert "<unk>" in reason
    assert ours.pad_token_id != ours.eos_token_id
    assert [ours.encode(text) for text in TEXTS] == [plain.encode(text) for text in TEXTS]


def test_without_any_spare_token_it_is_refused(byte_tokenizer_folder: Path, tmp_path: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(BPE(vocab={"a": 0, "b": 1, "<end>": 2}, merges=[]))
    core.add_special_tokens(["<end>"])
    PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<end>", bos_token="<end>").save_pretrained(tmp_path)
    with pytest.raises(ModelError) as caught:
        load_tokenizer(tmp_path)
    assert caught.value.code == "model.no-pad"
    assert str(tmp_path) == caught.value.place


def test_a_folder_without_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        load_tokenizer(tmp_path)
    assert caught.value.code == "model.no-tokenizer"


def test_a_broken_tokenizer(sp_folder: Path) -> None:
    (sp_folder / "tokenizer.json").write_text('{"version": "1.0"', encoding="utf-8")
    with pytest.raises(ModelError) as caught:
        load_tokenizer(sp_folder)
    assert caught.value.code == "model.bad-tokenizer"
    (sp_folder / "tokenizer.json").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ModelError) as caught:
        load_tokenizer(sp_folder)
    assert caught.value.code == "model.lfs-pointer"


@pytest.mark.parametrize("name", ["llama2", "chinese-llama-2"])
def test_a_copy_gives_the_same_ids(shared_data: Path, tmp_path: Path, name: str) -> None:
    """Saved through transformers 5.23, Llama 2's tokenizer gives ``</s><s>习`` other ids."""
    tokenizer = load_tokenizer(shared_data / "tokenizers" / name)
    copy_tokenizer(tokenizer, tmp_path, chat_template="{{ messages }}")
    copied = load_tokenizer(tmp_path)
    assert [copied.encode(text) for text in TEXTS] == [tokenizer.encode(text) for text in TEXTS]
    assert copied.pad_token_id == tokenizer.pad_token_id


def test_the_chat_template_goes_to_both_places_and_paths_go_nowhere(sp_folder: Path, tmp_path: Path) -> None:
    change_config(sp_folder, name_or_path="/somebody/private", chat_template="old", is_local=True)
    (sp_folder / "chat_template.jinja").write_text("older", encoding="utf-8")
    out = tmp_path / "out"
    out.mkdir()
    copy_tokenizer(load_tokenizer(sp_folder), out, chat_template="{{ '新' }}\n")
    assert (out / "chat_template.jinja").read_bytes() == "{{ '新' }}\n".encode()
    assert json.loads((out / "tokenizer_config.json").read_bytes())["chat_template"] == "{{ '新' }}\n"
    assert "private" not in (out / "tokenizer_config.json").read_text(encoding="utf-8")
    copy_tokenizer(load_tokenizer(sp_folder), out, chat_template=None)
    assert read_chat_template(out) is None


def test_a_tokenizer_from_memory_is_saved(sp_tokenizer: Any, tmp_path: Path) -> None:
    copy_tokenizer(sp_tokenizer, tmp_path, chat_template=None)
    copied = load_tokenizer(tmp_path)
    assert [copied.encode(text) for text in TEXTS] == [sp_tokenizer.encode(text) for text in TEXTS]


def test_named_chat_templates(sp_folder: Path) -> None:
    change_config(sp_folder, chat_template=[{"name": "tool", "template": "t"}, {"name": "default", "template": "d"}])
    assert read_chat_template(sp_folder) == "d"


def test_special_tokens_are_read_without_loading(byte_tokenizer_folder: Path, tmp_path: Path) -> None:
    assert "<|im_start|>" in read_specials(byte_tokenizer_folder)
    assert read_specials(tmp_path) == ()
