"""Texts and tokenizers that the tests of vocabulary expansion share."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

OLD = (
    "hello there, how are you today?", "the cat sat on the mat", "def add(a, b): return a + b", "3.14 + 2.72",
    "你好今天天气", "好的谢谢你", "我们去公园", "what is the weather like", "another line of text", "return None",
) * 4  # fmt: skip
"""What the old tokenizers have seen: little Chinese."""
TALK = (
    "今天天气怎么样？", "今天天气很好，我们去公园散步吧。", "糖尿病患者应该注意饮食。", "糖尿病患者可以吃水果吗？",
    "高血压患者应该注意休息。", "我今天心情不太好。", "别难过，和我说说发生了什么。", "哈哈哈哈哈哈", "哈哈，太好了！",
    "医生说应该注意休息，多喝水。", "明天上午我们去医院检查。", "检查结果怎么样？", "没有什么问题，放心吧。",
)  # fmt: skip


def records(texts: tuple[str, ...] = TALK, times: int = 6) -> str:
    """Conversations as JSON Lines: each text as question and answer, several times with a number to tell them apart."""
    lines = []
    for number in range(times):
        for text, answer in zip(texts, texts[1:] + texts[:1], strict=True):
            lines.append(json.dumps({"instruction": f"{number} {text}", "output": answer}, ensure_ascii=False))
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of conversations to choose pieces from."""
    path = tmp_path_factory.mktemp("corpus") / "talk.jsonl"
    path.write_text(records(), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def sentencepiece_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer like Llama 2's as it is published: ``tokenizer.model`` by SentencePiece itself, and its settings."""
    from sentencepiece import SentencePieceTrainer

    written = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(OLD), model_writer=written, model_type="bpe", vocab_size=360, byte_fallback=True,
        character_coverage=1.0, normalization_rule_name="identity", remove_extra_whitespaces=False,
        hard_vocab_limit=False, minloglevel=2, split_digits=True,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("sentencepiece")
    (folder / "tokenizer.model").write_bytes(written.getvalue())
    config = {
        "tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": False, "bos_token": "<s>",
        "eos_token": "</s>", "unk_token": "<unk>", "legacy": True, "clean_up_tokenization_spaces": False,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def published_folder(sentencepiece_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a ``tokenizer.json`` beside the ``.model``, as Llama 2 comes."""
    import shutil

    from hantune.models.tokenizer import load_tokenizer

    folder = tmp_path_factory.mktemp("published") / "tokenizer"
    shutil.copytree(sentencepiece_folder, folder)
    (folder / "tokenizer.json").write_text(load_tokenizer(folder).backend_tokenizer.to_str(), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def bytes_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Byte-level BPE as Llama 3's: special tokens numbered behind all pieces, letters kept apart from the rest."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, pre_tokenizers, trainers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(BPE(ignore_merges=True))
    split = pre_tokenizers.Split(
        Regex(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"), "isolated"
    )
    core.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(OLD, trainers.BpeTrainer(vocab_size=380, initial_alphabet=alphabet, show_progress=False))
    core.add_special_tokens([AddedToken(name, normalized=False) for name in ("<|begin|>", "<|end|>", "<|pad|>")])
    tokenizer: Any = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<|begin|>", eos_token="<|end|>", pad_token="<|pad|>",
        clean_up_tokenization_spaces=False,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("bytes")
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def model_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``model_of(tokenizer_folder, family="llama", **config)``: a tiny random model with that tokenizer."""
    from hantune.models.tokenizer import copy_tokenizer, load_tokenizer, num_ids, read_chat_template

    def make(folder: Path, family: str = "llama", **changes: Any) -> Path:
        import torch
        from transformers import BloomConfig, BloomForCausalLM, LlamaConfig, LlamaForCausalLM

        tokenizer = load_tokenizer(folder)
        ends = {
            "vocab_size": num_ids(tokenizer), "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "initializer_range": 0.1,
        }  # fmt: skip
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            if family == "bloom":
                model: Any = BloomForCausalLM(BloomConfig(hidden_size=32, n_layer=2, n_head=2, **ends | changes))
            else:
                shape = {
                    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
                    "max_position_embeddings": 256, "tie_word_embeddings": False,
                }  # fmt: skip
                model = LlamaForCausalLM(LlamaConfig(**shape | ends | changes))
        out = tmp_path_factory.mktemp("model")
        model.save_pretrained(out)
        copy_tokenizer(tokenizer, out, chat_template=read_chat_template(folder))
        return out

    return make
