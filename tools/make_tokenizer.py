"""Rebuild ``hantune/assets/tokenizer`` from the dialogues beside it: ``python tools/make_tokenizer.py``.

The result is a SentencePiece BPE tokenizer of 6,144 pieces laid out as Llama 2's is: ``<unk>`` 0,
``<s>`` 1, ``</s>`` 2, the 256 bytes 3..258; then ``<pad>``, a control piece of its own, at id 259.
Every Han character of GB2312 level 1, printable ASCII and common Chinese punctuation is one piece;
what room is left goes to merges learnt from the two dialogue files. Runs of one input give one output.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Iterator
from pathlib import Path

import sentencepiece as spm
from sentencepiece import sentencepiece_model_pb2 as pb
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, processors
from tokenizers.models import BPE

ASSETS = Path(__file__).resolve().parents[1] / "hantune" / "assets"
VOCAB_SIZE = 6144
PAD_ID = 259
MAX_PIECE = 4  # short pieces only: a whole sentence in one piece would teach a small model nothing
PUNCTUATION = "，。！？、；：“”‘’（）《》〈〉【】「」『』…—～·￥％＋－＝×÷℃°"
SPACE = "▁"


def level_one_han() -> str:
    """The 3,755 characters of GB2312 level 1 (rows 0xB0 to 0xD7), in code order."""
    codes = (bytes((row, cell)) for row in range(0xB0, 0xD8) for cell in range(0xA1, 0xFF))
    return "".join(code.decode("gb2312", errors="ignore") for code in codes)


def required_characters() -> str:
    """Every character that must be a piece, whatever the dialogues contain."""
    return level_one_han() + PUNCTUATION + "".join(map(chr, range(0x21, 0x7F)))


def training_lines() -> Iterator[str]:
    """The texts of both dialogue files, and once for each dialogue the markers of Llama 2's chat layout."""
    for name in ("dialogues.jsonl", "persona.jsonl"):
        for line in (ASSETS / name).read_text(encoding="utf-8").splitlines():
            messages = json.loads(line)["messages"]
            yield from (message["content"] for message in messages)
            yield "[INST] <<SYS>> <</SYS>> [/INST]"


def train() -> bytes:
    """Learn the pieces; return the serialised SentencePiece model."""
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=training_lines(),
        model_writer=model,
        model_type="bpe",
        vocab_size=VOCAB_SIZE,
        byte_fallback=True,
        character_coverage=1.0,
        required_chars=required_characters(),
        max_sentencepiece_length=MAX_PIECE,
        normalization_rule_name="identity",
        add_dummy_prefix=True,
        remove_extra_whitespaces=False,
        split_digits=True,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=PAD_ID,
        pad_piece="<pad>",
        num_threads=1,
        minloglevel=1,
    )
    return model.getvalue()


def merges_of(model: pb.ModelProto) -> list[tuple[str, str]]:
    """The merges that rebuild the learnt pieces, best first, every way to split a piece in two."""
    normal = pb.ModelProto.SentencePiece.NORMAL
    score = {piece.piece: piece.score for piece in model.pieces if piece.type == normal}
    ranked = sorted((piece for piece in score if len(piece) > 1), key=lambda piece: -score[piece])
    splits = ((piece[:cut], piece[cut:]) for piece in ranked for cut in range(1, len(piece)))
    return [(left, right) for left, right in splits if left in score and right in score]


def fast_tokenizer(model: pb.ModelProto) -> Tokenizer:
    """The same tokenizer for the ``tokenizers`` library, shaped as Llama 2's ``tokenizer.json``."""
    vocab = {piece.piece: index for index, piece in enumerate(model.pieces)}
    bpe = BPE(vocab=vocab, merges=merges_of(model), unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    fast = Tokenizer(bpe)
    fast.add_special_tokens([AddedToken(name, normalized=False) for name in ("<unk>", "<s>", "</s>", "<pad>")])
    fast.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    fast.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", vocab["<s>"])]
    )
    fast.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return fast


def config() -> dict[str, object]:
    """What ``tokenizer_config.json`` says; the generic class takes ``tokenizer.json`` as it stands.

    Transformers' own ``LlamaTokenizer`` would put another pre-tokenizer in, which drops the prefix
    of a text that starts with a space, and so part from SentencePiece.
    """
    return {
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": "<s>",
        "clean_up_tokenization_spaces": False,
        "eos_token": "</s>",
        "model_max_length": 2048,
        "pad_token": "<pad>",
        "padding_side": "right",
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": "<unk>",
    }


def main() -> None:
    """Write the three files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=ASSETS / "tokenizer", help="folder to write")
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    raw = train()
    (out / "tokenizer.model").write_bytes(raw)
    fast_tokenizer(pb.ModelProto.FromString(raw)).save(str(out / "tokenizer.json"), pretty=False)
    text = json.dumps(config(), ensure_ascii=False, indent=2) + "\n"
    (out / "tokenizer_config.json").write_text(text, encoding="utf-8", newline="\n")
    print(f"{len(list(out.iterdir()))} files, {sum(file.stat().st_size for file in out.iterdir()):,} bytes")


if __name__ == "__main__":
    main()
