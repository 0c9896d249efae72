"""The tokenizer file of Meta's releases as a tokenizer folder: SentencePiece (Llama 1, 2) and tiktoken (Llama 3).

``tokenizer.json`` is written here, not by transformers: 5.23 orders the merges of a ``tokenizer.model`` by id, not by
score, and two blanks in a row then get other ids than SentencePiece gives them.
"""

from __future__ import annotations

import base64
import binascii
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hantune.errors import ModelError
from hantune.models.folder import require_no_pointer
from hantune.models.vocab.files import open_model
from hantune.models.vocab.pieces import ways
from hantune.paths import write_json

NAME = "tokenizer.model"
TIKTOKEN_LINE = re.compile(rb"[A-Za-z0-9+/]+={0,2} \d+")
PATTERN = "|".join(
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)", r"[^\r\n\p{L}\p{N}]?\p{L}+", r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+",
    )
)  # fmt: skip
"""How Llama 3 cuts text into words (Meta's ``llama/tokenizer.py``)."""
NUM_SPECIAL = 256
SPECIAL = {
    0: "<|begin_of_text|>", 1: "<|end_of_text|>", 6: "<|start_header_id|>", 7: "<|end_header_id|>", 9: "<|eot_id|>",
}  # fmt: skip
LATER_SPECIAL = {4: "<|finetune_right_pad_id|>", 8: "<|eom_id|>", 10: "<|python_tag|>"}
"""What Llama 3.1 made of three reserved tokens; the others are numbered through in both."""
PROBES = (
    "你好, 世界! Hello 123\n第二行 (2 + 2 = 4)", "two  blanks,   three\n\n x", "龘靐齉 😀 e\u0301 ﬁ", " lead", "",
    "def f(x):\n    return x[::-1]\t# ok", "……——《》“”　。", "[INST] <<SYS>>\n嗯\n<</SYS>>\n\n问 [/INST] 答 ",
)  # fmt: skip
"""Texts that both tokenizers must cut alike."""


@dataclass(frozen=True)
class Marks:
    """What a config needs to know: how many rows the embedding must have at least, and the ids of the marks."""

    num_ids: int
    bos: int
    eos: int
    ends: tuple[int, ...]
    pad: int | None
    is_tiktoken: bool


def find_tokenizer(folder: Path) -> Path:
    """Meta's ``tokenizer.model``: in ``folder``, or beside it, where the Llama 1 and 2 downloads put it.

    Raises: ModelError ``model.no-tokenizer``, ``model.lfs-pointer``.
    """
    for path in (folder / NAME, folder.absolute().parent / NAME):
        if path.is_file():
            require_no_pointer(path)
            return path
    raise ModelError(
        "model.no-tokenizer",
        f"没有 {NAME}: 文件夹里没有, 上一层也没有",
        place=str(folder),
        hint=f"它和权重一起发布, 把它拷到这个文件夹里: cp .../{NAME} 这里",
    )


def is_tiktoken(path: Path) -> bool:
    """Whether a ``tokenizer.model`` is Llama 3's list of lines ``base64 rank``."""
    with path.open("rb") as file:
        return bool(TIKTOKEN_LINE.fullmatch(file.readline(2000).strip()))


def write_tokenizer(source: Path, folder: Path, *, context: int, is_chat: bool, is_late: bool) -> Marks:
    """Put ``tokenizer.json``, its settings and (SentencePiece) the file itself into ``folder``.

    ``context``: tokens that the model can take. ``is_chat``: answers end with ``<|eot_id|>`` (Llama 3).
    ``is_late``: Llama 3.1 or newer.

    Raises: ModelError ``model.bad-tokenizer``.
    """
    if is_tiktoken(source):
        return _write_tiktoken(source, folder, context=context, is_chat=is_chat, is_late=is_late)
    return _write_sentencepiece(source, folder, context=context)


def _bad(source: Path, what: str) -> ModelError:
    return ModelError(
        "model.bad-tokenizer",
        f"分词器用不了: {what}",
        place=str(source),
        hint="重新下载或拷贝它, 再运行同一条命令",
    )


def _write_sentencepiece(source: Path, folder: Path, *, context: int) -> Marks:
    processor = open_model(source)
    bos, eos, unk = processor.bos_id(), processor.eos_id(), processor.unk_id()
    if min(bos, eos, unk) < 0:
        raise _bad(source, "没有 <s>, </s> 或 <unk>")
    core = sentencepiece_core(processor)
    for probe in PROBES:
        if core.encode(probe, add_special_tokens=False).ids != processor.encode(probe):
            raise _bad(source, f"它不是 Llama 那样的 SentencePiece BPE, 转换后对 {probe[:20]!r} 的切法不同")
    core.save(str(folder / "tokenizer.json"))
    shutil.copyfile(source, folder / NAME)
    names = {name: processor.id_to_piece(i) for name, i in (("bos_token", bos), ("eos_token", eos), ("unk_token", unk))}
    _write_settings(folder, names, context)
    return Marks(processor.get_piece_size(), bos, eos, (eos,), None, is_tiktoken=False)


def _write_settings(folder: Path, names: Mapping[str, str], context: int) -> None:
    """``tokenizer_config.json`` with the class that takes ``tokenizer.json`` as it stands: ``LlamaTokenizer`` of
    transformers 5.23 puts its own rule for blanks in place of the file's, and a text's first blank is lost."""
    settings = {
        "clean_up_tokenization_spaces": False, "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": context, "tokenizer_class": "PreTrainedTokenizerFast",
    }  # fmt: skip
    write_json(folder / "tokenizer_config.json", settings | dict(names))


def sentencepiece_core(processor: Any) -> Any:
    """A SentencePiece BPE model as one of the Rust backend; merges in the order of the scores."""
    from tokenizers import AddedToken, Tokenizer, decoders, normalizers
    from tokenizers.models import BPE

    count = processor.get_piece_size()
    vocabulary = {processor.id_to_piece(number): number for number in range(count)}
    special = [n for n in range(count) if processor.is_control(n) or processor.is_unknown(n)]
    kept = {p: n for p, n in vocabulary.items() if n not in special and not processor.is_byte(n)}
    by_score = sorted(kept, key=lambda piece: -processor.get_score(kept[piece]))
    unknown, first = processor.id_to_piece(processor.unk_id()), processor.id_to_piece(processor.bos_id())
    core = Tokenizer(BPE(vocabulary, _merges(by_score, kept), unk_token=unknown, fuse_unk=True, byte_fallback=True))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    core.post_processor = _bos_first(first, processor.bos_id())
    core.add_special_tokens([AddedToken(processor.id_to_piece(number), normalized=False) for number in special])
    return core


def _merges(in_order: list[str], vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    """Every pair of pieces that makes a piece: best piece first, then by the ids of its parts."""
    return [
        pair
        for piece in in_order
        for pair in sorted(ways(piece, vocabulary), key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))
    ]


def _bos_first(name: str, number: int) -> Any:
    from tokenizers.processors import TemplateProcessing

    return TemplateProcessing(single=f"{name} $A", pair=f"{name} $A {name}:1 $B:1", special_tokens=[(name, number)])


def _write_tiktoken(source: Path, folder: Path, *, context: int, is_chat: bool, is_late: bool) -> Marks:
    ranks = read_ranks(source)
    core, special = tiktoken_core(ranks, special_names(is_late=is_late))
    for probe in PROBES:
        if core.decode(core.encode(probe, add_special_tokens=False).ids) != probe:
            raise _bad(source, f"{probe[:20]!r} 编码再解码就变了")
    core.save(str(folder / "tokenizer.json"))
    names = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>" if is_chat else "<|end_of_text|>"}
    if is_late:
        names["pad_token"] = "<|finetune_right_pad_id|>"
    _write_settings(folder, names, context)
    ends = ("<|end_of_text|>", *(("<|eom_id|>",) if is_late else ()), "<|eot_id|>") if is_chat else ("<|end_of_text|>",)
    return Marks(
        len(ranks) + NUM_SPECIAL,
        special[names["bos_token"]],
        special[names["eos_token"]],
        tuple(special[name] for name in ends),
        special.get(names.get("pad_token", "")),
        is_tiktoken=True,
    )


def read_ranks(source: Path) -> list[bytes]:
    """Llama 3's tokens in the order of their ids.

    Raises: ModelError ``model.bad-tokenizer``.
    """
    found: dict[int, bytes] = {}
    try:
        for line in source.read_bytes().splitlines():
            text, rank = line.split()
            found[int(rank)] = base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error) as error:
        raise _bad(source, "有一行不是 'base64 编号'") from error
    ranks = [found[number] for number in sorted(found)]
    if sorted(found) != list(range(len(ranks))) or len(set(ranks)) != len(ranks):
        raise _bad(source, "编号不连续, 或者有重复的词元")
    if not {bytes([byte]) for byte in range(256)} <= set(ranks):
        raise _bad(source, "256 个单字节词元不齐")
    return ranks


def special_names(*, is_late: bool) -> list[str]:
    """The 256 control tokens behind Llama 3's vocabulary, in the order of their ids."""
    named = SPECIAL | (LATER_SPECIAL if is_late else {})
    reserved = (f"<|reserved_special_token_{number}|>" for number in range(NUM_SPECIAL))
    return [named.get(place) or next(reserved) for place in range(NUM_SPECIAL)]


def tiktoken_core(ranks: list[bytes], special: list[str]) -> tuple[Any, dict[str, int]]:
    """Tokens by rank as byte-level BPE of the Rust backend, and the ids of its control tokens."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, pre_tokenizers, processors
    from tokenizers.models import BPE

    from hantune.data.junctions import byte_level_alphabet

    table = byte_level_alphabet()
    spelt = ["".join(table[byte] for byte in token) for token in ranks]
    vocabulary = {piece: number for number, piece in enumerate(spelt)}
    core = Tokenizer(BPE(vocabulary, _merges(spelt, vocabulary), fuse_unk=False, ignore_merges=True))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(name, normalized=False) for name in special])
    ids = {name: len(ranks) + place for place, name in enumerate(special)}
    core.post_processor = processors.Sequence(
        [processors.ByteLevel(trim_offsets=False), _bos_first(special[0], ids[special[0]])]
    )
    return core, ids
