"""Fixtures that every part of hantune is tested with: tiny tokenizers and models, made on the spot.

No test reaches the network, and every test computes with one thread, so that results do not hang on the machine.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# The same examples every time, and no deadline: a slow machine is not a broken law.
settings.register_profile("quick", derandomize=True, deadline=None, max_examples=30)
settings.register_profile("thorough", derandomize=True, deadline=None)
settings.load_profile("quick")

ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
# Where a test asks for two threads after all, they sleep while they wait, and leave the core to the other tests.
ONE_THREAD["OMP_WAIT_POLICY"] = "PASSIVE"
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
# Before torch, tokenizers or huggingface_hub are imported: they read these once. Child processes inherit them.
os.environ.update(ONE_THREAD | OFFLINE)

SHARED_DATA = Path(__file__).resolve().parents[1] / ".." / "shared" / "data"

SENTENCES = (
    "你好, 很高兴认识你。", "你好！今天天气怎么样？", "今天天气很好，我们去公园散步吧。", "你叫什么名字？",
    "我是一个聊天助手，可以陪你说话。", "推荐一道家常菜。", "西红柿炒鸡蛋又快又好吃。", "我今天心情不太好。",
    "别难过，和我说说发生了什么。", "明天几点开会？", "明天上午九点半，在三楼会议室。", "谢谢你的帮助！",
    "不客气，有问题随时问我。", "学习编程要从哪里开始？", "先学一门语言，比如 Python，再多写多练。", "晚安，做个好梦。",
    "下面是一个问题，运用医学知识来正确回答提问.", "感冒了应该多喝水，注意休息。", "我爱北京天安门。", "龘靐齉",
    "问题\n回答\n", "第一行\n第二行\n\n第三行", "Hello, how are you today?", "I am fine, thank you.",
    "Below is an instruction that describes a task.", "Write a response that appropriately completes the request.",
    "### Instruction:\n", "### Response:\n", "### 问题:\n", "### 回答:\n", "Human: ", "Assistant: ", "[INST] [/INST]",
    "<<SYS>>\n<</SYS>>\n\n", "system", "user\n", "assistant\n", "Question:\n---\n Answer:\n", "Summary:\n",
    "def add(a, b):\n    return a + b\n", "3.14 + 2.72 = 5.86", "电话 010-12345678", "……——《》“”", "\t表格\t",
)  # fmt: skip
"""What the tiny tokenizers are trained on: everyday Chinese, English, code, and the words of prompt templates."""


def pytest_configure(config: pytest.Config) -> None:
    """With the slow tests, laws are tried on more examples (``tests.laws.examples``)."""
    settings.load_profile("quick" if "not slow" in config.option.markexpr else "thorough")


def pytest_collection_finish() -> None:
    """What is imported by now stays: Python's search for circles need not walk through a million objects each time."""
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """The environment settles it; this holds even where torch was imported before this file."""
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real files beside the repository; tests that need it are skipped elsewhere."""
    if not SHARED_DATA.is_dir():
        pytest.skip("needs the real files of ../shared/data")
    return SHARED_DATA.resolve()


@pytest.fixture(scope="session")
def llama2_tokenizer(shared_data: Path) -> Any:
    """The real Llama 2 tokenizer with ``<unk>`` as its pad (32,000 pieces, no id is changed)."""
    from transformers import AutoTokenizer

    folder = shared_data / "tokenizers" / "llama2"
    if not folder.is_dir():
        pytest.skip("needs ../shared/data/tokenizers/llama2")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.unk_token
    return tokenizer


def _learn_merges(model: Any, trainer_settings: dict[str, Any], pre_tokenizer: Any, lines: list[str]) -> list[Any]:
    """The merges that BPE learns from ``lines``, best first."""
    import json

    from tokenizers import Tokenizer, trainers

    scratch = Tokenizer(model)
    scratch.pre_tokenizer = pre_tokenizer
    scratch.train_from_iterator(lines, trainers.BpeTrainer(show_progress=False, **trainer_settings))
    return [tuple(merge) for merge in json.loads(scratch.to_str())["model"]["merges"]]


def _wrap(core: Any, **names: Any) -> Any:
    """A tokenizer of the Rust backend as transformers shows it."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=core, clean_up_tokenization_spaces=False, **names)


def _vocabulary(first: list[str], pieces: list[str], merges: list[Any]) -> dict[str, int]:
    """``first``, then single pieces, then what the merges make, numbered in this order."""
    ordered = dict.fromkeys([*first, *pieces, *(left + right for left, right in merges)])
    return {piece: number for number, piece in enumerate(ordered)}


@pytest.fixture(scope="session")
def sp_tokenizer() -> Any:
    """SentencePiece-style BPE like Llama 2's: unk 0, bos 1, eos 2, byte b = b + 3, then ``<pad>`` 259; dummy prefix."""
    from tokenizers import AddedToken, Tokenizer, decoders, normalizers, processors
    from tokenizers.models import BPE

    lines = ["▁" + line.replace(" ", "▁") for line in SENTENCES if "龘" not in line]
    alphabet = sorted({character for line in lines for character in line if character not in "\n\t"})
    merges = _learn_merges(BPE(), {"vocab_size": 520, "max_token_length": 5}, None, lines)
    merges = [(left, right) for left, right in merges if "\n" not in left + right and "\t" not in left + right]
    first = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "<pad>"]
    model = BPE(
        vocab=_vocabulary(first, alphabet, merges), merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True
    )
    core = Tokenizer(model)
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)]
    )
    core.add_special_tokens([AddedToken(name, normalized=False) for name in ("<unk>", "<s>", "</s>", "<pad>")])
    return _wrap(core, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>")


@pytest.fixture(scope="session")
def byte_tokenizer() -> Any:
    """Byte-level BPE like BLOOM's and Llama 3's: adds no BOS; ``<s> </s> <pad>`` and ChatML's are special."""
    from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE

    special = ["<unk>", "<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    split = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    merges = _learn_merges(BPE(), {"vocab_size": 480, "initial_alphabet": alphabet}, split, list(SENTENCES))
    core = Tokenizer(BPE(vocab=_vocabulary(special, alphabet, merges), merges=merges))
    core.pre_tokenizer = split
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(name, normalized=False) for name in special])
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    return _wrap(core, **names, extra_special_tokens=["<|im_start|>", "<|im_end|>"])


@pytest.fixture(scope="session")
def sp_tokenizer_folder(sp_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``sp_tokenizer`` as a folder."""
    folder = tmp_path_factory.mktemp("sp-tokenizer")
    sp_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def byte_tokenizer_folder(byte_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``byte_tokenizer`` as a folder."""
    folder = tmp_path_factory.mktemp("byte-tokenizer")
    byte_tokenizer.save_pretrained(folder)
    return folder


def _seeded(build: Callable[[], Any], seed: int) -> Any:
    """A model from ``build`` in eval mode, the same for the same seed; the global generator is left as it was."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build().eval()


@pytest.fixture(scope="session")
def tiny_llama() -> Callable[..., Any]:
    """``tiny_llama(tokenizer, seed=0, **config)``: a new random Llama, 2 layers, 64 wide, float32."""

    def make(tokenizer: Any, seed: int = 0, **changes: Any) -> Any:
        from transformers import LlamaConfig, LlamaForCausalLM

        shape = {
            "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "max_position_embeddings": 512, "vocab_size": len(tokenizer),
            "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id, "tie_word_embeddings": False,
        }  # fmt: skip
        return _seeded(lambda: LlamaForCausalLM(LlamaConfig(**shape | changes)), seed)

    return make


@pytest.fixture(scope="session")
def tiny_bloom() -> Callable[..., Any]:
    """``tiny_bloom(tokenizer, seed=0, **config)``: a new random BLOOM (alibi, tied embeddings), 2 layers, 64 wide."""

    def make(tokenizer: Any, seed: int = 0, **changes: Any) -> Any:
        from transformers import BloomConfig, BloomForCausalLM

        shape = {
            "hidden_size": 64, "n_layer": 2, "n_head": 4, "vocab_size": len(tokenizer),
            "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        }  # fmt: skip
        return _seeded(lambda: BloomForCausalLM(BloomConfig(**shape | changes)), seed)

    return make


@pytest.fixture(scope="session")
def tiny_llama_folder(
    tiny_llama: Callable[..., Any], sp_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A model folder: random tiny Llama with ``sp_tokenizer``. Read only: copy it before changing anything."""
    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    tiny_llama(sp_tokenizer).save_pretrained(folder)
    sp_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_bloom_folder(
    tiny_bloom: Callable[..., Any], byte_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A model folder: random tiny BLOOM with ``byte_tokenizer``. Read only: copy it before changing anything."""
    folder = tmp_path_factory.mktemp("models") / "tiny-bloom"
    tiny_bloom(byte_tokenizer).save_pretrained(folder)
    byte_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def adapter_of() -> Callable[..., Path]:
    """``adapter_of(folder, base, seed=..., template=...)``: an ADAPTER of a base folder, moved by noise."""
    import torch

    from hantune.config.schema import AdapterSection
    from hantune.data.templates import get_template
    from hantune.models.adapter import attach_lora, save_adapter
    from hantune.models.load import load_model, load_tokenizer

    def make(folder: Path, base: Path, *, seed: int, template: str) -> Path:
        model = attach_lora(load_model(base, dtype=torch.float32), AdapterSection(), seed=seed)
        generator = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data.normal_(0.0, 0.1, generator=generator)
        tokenizer = load_tokenizer(base)
        save_adapter(
            model, folder, base=str(base), tokenizer=tokenizer, template=get_template(template), info={}
        )  # fmt: skip
        return folder

    return make
