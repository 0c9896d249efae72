"""Rendered text to token ids and mask. Each segment is encoded apart; nobody later guesses where an answer starts.

Two encoders are made of the model's own tokenizer. In both, text that looks like a control token stays text, so a user
who types ``</s>`` cannot forge a turn: control tokens come from control segments only. One encoder puts the dummy
prefix of SentencePiece (``▁``) in front of a text as the model's tokenizer does, for segments where that tokenizer
would: at the start, and after a control token where it does so (Llama 2 legacy: yes; ``prepend_scheme: first``: no).
The other never does, for segments that go on after text, such as the answer after the prompt.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from hantune.data.borders import BORDER, find_borders, to_points
from hantune.data.templates.base import Marks
from hantune.data.types import Example, Rendered
from hantune.errors import ModelError

CONTROL_SHAPE = re.compile(r"<[|｜].+[|｜]>|<(start|end)_of_turn>", re.DOTALL)
"""Added tokens of this shape are control tokens even where the tokenizer forgot to mark them as special."""
PROBES = ("a", "你好 b", "[INST] 中", "\nx", "##")
"""Texts on which the encoders must agree with the model's tokenizer, at the start and after a control token."""
WITH_PREFIX, WITHOUT_PREFIX, CONTROL = 0, 1, 2
FEW = 256
"""Characters below which the Rust backend is as fast as the tables."""


class _Control(NamedTuple):
    """A control token: its id, and whether it swallows the blanks before or after it (Phi-3)."""

    id: int
    lstrip: bool
    rstrip: bool


class Encoder:
    """One tokenizer, as training and serving use it."""

    def __init__(self, tokenizer: Any) -> None:
        """Raises: ModelError ``tokenizer.not-fast``, ``tokenizer.self-test``."""
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise ModelError(
                "tokenizer.not-fast",
                f"这个分词器 ({type(tokenizer).__name__}) 没有 Rust 后端 (tokenizer.json)",
                hint="pip install sentencepiece protobuf 后重试, 或换一个带 tokenizer.json 的模型文件夹",
            )
        self.tokenizer = tokenizer
        self._backend = backend = _unlimited(backend)
        plan = _plan(backend, tokenizer)
        self._pair = _encoders(plan)
        self._controls = {
            token["content"]: _Control(token["id"], token["lstrip"], token["rstrip"])
            for token in plan["added_tokens"]
            if token["special"]
        }
        self.control_points = {control.id: BORDER + 1 + n for n, control in enumerate(self._controls.values())}
        self.borders = find_borders(plan, self._pair[1], list(self.control_points))
        """The tables that encode without the Rust backend; None where the tokenizer does not allow it."""
        self.marks = self._read_marks()
        self._after_control = self._probe()
        self.fingerprint = _hash(plan, self.marks)
        self.bytes_of = TokenBytes(plan, backend)
        pad = tokenizer.pad_token_id
        self.has_pad = pad is not None
        self.pad_id: int = int(pad if pad is not None else tokenizer.unk_token_id or 0)
        ends = (tokenizer.bos_token_id, tokenizer.eos_token_id)
        self.unknown_id: int | None = None if tokenizer.unk_token_id in ends else tokenizer.unk_token_id
        self.vocab_size: int = backend.get_vocab_size(with_added_tokens=True)

    def __getstate__(self) -> dict[str, Any]:
        """What another process needs to encode: not the tokenizer of transformers, whose import takes seconds."""
        return vars(self) | {"tokenizer": None, "_pair": [encoder.to_str() for encoder in self._pair]}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _pair=tuple(_plain_encoder(text) for text in state["_pair"]))
        if self.borders is not None:
            self.borders.bare = self._pair[1]

    def _read_marks(self) -> Marks:
        """BOS only where the tokenizer adds one by itself: BLOOM has a ``<s>`` that it never uses."""
        names = {k: v for k, v in self.tokenizer.special_tokens_map.items() if isinstance(v, str)}
        bos = names.get("bos_token", "")
        adds_bos = bool(bos) and self._backend.encode("a").ids[:1] == [self.tokenizer.bos_token_id]
        return Marks(
            bos=bos if adds_bos else "",
            eos=names.get("eos_token", ""),
            specials=tuple(self._controls),
            variables=tuple(sorted(names.items())),
        )

    def _probe(self) -> int:
        """Which encoder continues after a control token, found by asking the model's tokenizer.

        Raises: ModelError ``tokenizer.self-test`` when none of them says what the tokenizer says.
        """
        failed = [text for text in PROBES if self._real(text) != self._ids(WITH_PREFIX, text)]
        plain = [(text, c.id) for text, c in self._controls.items() if not (c.lstrip or c.rstrip)][:1]
        for text, token in plain if not failed else []:
            wanted = [(probe, self._real(text + probe)) for probe in PROBES]
            for choice in (WITHOUT_PREFIX, WITH_PREFIX):
                failed = [probe for probe, ids in wanted if [token, *self._ids(choice, probe)] != ids]
                if not failed:
                    return choice
        if failed:
            raise ModelError(
                "tokenizer.self-test",
                f"分段编码和分词器自己的编码不一致, 例如 {failed[0]!r}",
                hint="换一个标准的 tokenizer.json; 若是自己扩充的词表, 用 hantune model check 检查",
            )
        return WITHOUT_PREFIX

    def _real(self, text: str) -> list[int]:
        return list(self._backend.encode(text, add_special_tokens=False).ids)

    def _ids(self, which: int, text: str) -> list[int]:
        return list(self._pair[which].encode(text, add_special_tokens=False).ids)

    def encode(self, rendered: Rendered, *, source: str = "", max_tokens: int | None = None) -> Example:
        """Ids and mask of one text, the end cut off at ``max_tokens``."""
        example = self.encode_many([rendered], [source])[0]
        return example if max_tokens is None else cut(example, max_tokens)

    def prompt(self, rendered: Rendered) -> list[int]:
        """The ids of a serving prompt."""
        return list(self.encode(rendered).ids)

    def encode_many(self, texts: Sequence[Rendered], sources: Sequence[str] = ()) -> list[Example]:
        """Ids and mask of many texts, all their segments encoded at once; equal segments are encoded once."""
        tables: tuple[dict[str, int], dict[str, int]] = ({}, {})
        layouts = [self._layout(rendered, tables) for rendered in texts]
        encoded = [self._encode_texts(which, list(table)) for which, table in enumerate(tables)]
        examples = []
        for number, layout in enumerate(layouts):
            ids: list[int] = []
            mask: list[int] = []
            for which, index, learn in layout:
                if which == CONTROL:
                    ids.append(index)
                    mask.append(learn)
                else:
                    piece = encoded[which][index]
                    ids += piece
                    mask += [learn] * len(piece)
            source = sources[number] if sources else ""
            examples.append(Example(ids=tuple(ids), mask=tuple(mask), source=source))
        return examples

    def _encode_texts(self, which: int, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text by one of the two encoders."""
        if self.borders is None or sum(map(len, texts)) < FEW:
            encodings = self._pair[which].encode_batch_fast(texts, add_special_tokens=False)
            return [encoding.ids for encoding in encodings]
        opened = [self.borders.opening(text) + text for text in texts] if which == WITH_PREFIX else texts
        sizes = np.fromiter(map(len, opened), np.int64, len(opened))
        starts = np.cumsum(sizes) - sizes
        ids, by_point = self.borders.encode(np.insert(to_points("".join(opened)), starts, BORDER))
        ends = np.cumsum(by_point)[np.cumsum(sizes + 1) - 1].tolist()
        flat = ids.tolist()
        return [flat[start:end] for start, end in zip([0, *ends], ends, strict=False)]

    def _layout(self, rendered: Rendered, tables: tuple[dict[str, int], ...]) -> list[tuple[int, int, int]]:
        """(encoder or CONTROL, index into its table or id, learn bit) for each segment; new texts enter ``tables``."""
        return [
            (which, text if isinstance(text, int) else tables[which].setdefault(text, len(tables[which])), int(learn))
            for which, text, learn in self.pieces(rendered)
        ]

    def pieces(self, rendered: Rendered) -> list[tuple[int, str | int, bool]]:
        """(encoder, text, learn bit) of each segment that is a text, (CONTROL, id, learn bit) of each control token."""
        pieces: list[tuple[int, str | int, bool]] = []
        before: _Control | None = None
        which = WITH_PREFIX
        segments = rendered.segments
        for number, (text, learn, control) in enumerate(segments):
            token = self._controls.get(text) if control else None
            if token is not None:
                pieces.append((CONTROL, token.id, learn))
                which = self._after_control
            else:
                if before is not None and before.rstrip:
                    text = text.lstrip()
                following = segments[number + 1] if number + 1 < len(segments) else None
                if following is not None and following.control and following.learn == learn:
                    swallows = self._controls.get(following.text)
                    text = text.rstrip() if swallows is not None and swallows.lstrip else text
                if text:
                    pieces.append((which, text, learn))
                    which = WITHOUT_PREFIX
            before = token
        return pieces

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ``ids`` without control tokens."""
        return str(self._backend.decode(list(ids), skip_special_tokens=True))

    def stop_ids(self, stops: Sequence[str]) -> tuple[int, ...]:
        """The ids of those stop strings that are one control token."""
        return tuple(dict.fromkeys(self._controls[stop].id for stop in stops if stop in self._controls))

    def is_control(self, text: str) -> bool:
        """Whether ``text`` is one control token of this tokenizer."""
        return text in self._controls

    @property
    def control_ids(self) -> dict[int, str]:
        """The control tokens by id."""
        return {control.id: text for text, control in self._controls.items()}

    def has_prefix(self, *, after_control: bool) -> bool:
        """Whether a segment at the start (or after a control token) carries a dummy prefix that is not in the text."""
        which = self._after_control if after_control else WITH_PREFIX
        return which == WITH_PREFIX and self._ids(WITH_PREFIX, "a") != self._ids(WITHOUT_PREFIX, "a")


def cut(example: Example, max_tokens: int) -> Example:
    """The first ``max_tokens`` tokens; ``is_cut`` when something learned was lost."""
    if len(example.ids) <= max_tokens:
        return example
    return Example(
        ids=example.ids[:max_tokens],
        mask=example.mask[:max_tokens],
        source=example.source,
        is_cut=example.is_cut or any(example.mask[max_tokens:]),
    )


def _unlimited(backend: Any) -> Any:
    """The backend, or a copy of it without the truncation and padding that an earlier call left in it."""
    if backend.truncation is None and backend.padding is None:
        return backend
    backend = copy.deepcopy(backend)
    backend.no_truncation()
    backend.no_padding()
    return backend


def _plan(backend: Any, tokenizer: Any) -> dict[str, Any]:
    """The tokenizer as plain data, without post-processing, with every control token marked as special."""
    plan: dict[str, Any] = json.loads(backend.to_str())
    plan.update(post_processor=None)
    named = {value for value in tokenizer.special_tokens_map.values() if isinstance(value, str)}
    for token in plan["added_tokens"]:
        token["special"] |= token["content"] in named or bool(CONTROL_SHAPE.fullmatch(token["content"]))
    return plan


def _encoders(plan: dict[str, Any]) -> tuple[Any, Any]:
    """The encoder with the tokenizer's dummy prefix and the one without; the same where it has none."""
    bare = {**plan, **{key: _without_prefix(plan[key]) for key in ("normalizer", "pre_tokenizer")}}
    encoders = [_plain_encoder(json.dumps(each)) for each in ([plan] if bare == plan else [plan, bare])]
    return encoders[0], encoders[-1]


def _plain_encoder(text: str) -> Any:
    """The encoder that a ``tokenizer.json`` says, to which control tokens are plain text."""
    from tokenizers import Tokenizer

    encoder = Tokenizer.from_str(text)
    encoder.encode_special_tokens = True
    return encoder


def _without_prefix(node: Any) -> Any:
    """A normalizer or pre-tokenizer that puts nothing in front of the text."""
    if not isinstance(node, dict):
        return node
    node = copy.deepcopy(node)
    kind = node["type"]
    if kind == "Prepend":
        return None
    if kind == "Metaspace":
        node["prepend_scheme"] = "never"
    if kind == "ByteLevel":
        node["add_prefix_space"] = False
    for key in ("normalizers", "pretokenizers"):
        if key in node:
            node[key] = [part for part in map(_without_prefix, node[key]) if part is not None]
    return node


def _hash(plan: dict[str, Any], marks: Marks) -> str:
    """A sha256 that changes when any id could."""
    text = json.dumps([plan, marks.bos, marks.eos], ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class TokenBytes:
    """id -> the bytes a token stands for, so that text can be shown by characters where a character is three tokens."""

    def __init__(self, plan: dict[str, Any], backend: Any) -> None:
        self._backend = backend
        self._added = {token["id"]: token["content"] for token in plan["added_tokens"]}
        kinds = json.dumps(plan["decoder"])
        self._is_byte_level = '"ByteLevel"' in kinds
        self._has_byte_tokens = '"ByteFallback"' in kinds
        self._byte_of = {character: byte for byte, character in byte_level_alphabet().items()}

    def __getitem__(self, token: int) -> bytes:
        if token in self._added:
            return str(self._added[token]).encode()
        piece = str(self._backend.id_to_token(token) or "")
        if self._is_byte_level:
            return bytes(self._byte_of.get(character, 0x3F) for character in piece)
        if self._has_byte_tokens and re.fullmatch("<0x[0-9A-F]{2}>", piece):
            return bytes([int(piece[3:5], 16)])
        return piece.replace("▁", " ").encode()


def byte_level_alphabet() -> dict[int, str]:
    """byte -> the printable character that stands for it in byte-level BPE (Radford et al. 2019, ``encoder.py``)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}
