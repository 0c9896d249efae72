"""A tokenizer as its files describe it, without transformers, whose import and loading take four seconds.

It has the few members that ``choose_pad``, ``num_ids`` and ``model check`` ask for. Families whose settings live in the
code of transformers are not read here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

NAMES = ("bos_token", "eos_token", "unk_token", "pad_token")
DEFAULTS: dict[str, dict[str, str]] = {
    "LlamaTokenizer": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
    "BloomTokenizer": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"},
    "PreTrainedTokenizer": {}, "TokenizersBackend": {},
}  # fmt: skip
"""Classes of transformers without anything of their own but these names (``Fast`` behind them changes nothing)."""


def read_plain(folder: Path) -> PlainTokenizer | None:
    """The tokenizer in ``folder``, or None where it takes transformers to know it.

    Raises: ValueError, KeyError, TypeError, AttributeError or Exception of the Rust backend for broken files.
    """
    settings = _read(folder / "tokenizer_config.json")
    kind = str(settings.get("tokenizer_class", "")).removesuffix("Fast")
    if kind not in DEFAULTS or settings.get("auto_map") or not (folder / "tokenizer.json").is_file():
        return None
    older = {name: text for name, text in _read(folder / "special_tokens_map.json").items() if name not in settings}
    return PlainTokenizer(folder, {**DEFAULTS[kind], **older, **settings})


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_bytes())) if path.is_file() else {}


class PlainTokenizer:
    """``bos_token`` ... and ``pad_token`` are texts or None; tokens that only the settings name get ids at the end."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        from tokenizers import Tokenizer

        self.name_or_path = str(folder)
        self._core = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.bos_token, self.eos_token, self.unk_token, self.pad_token = (_text(settings.get(name)) for name in NAMES)
        extra = settings.get("extra_special_tokens") or settings.get("additional_special_tokens") or []
        named = [*map(settings.get, NAMES), *(extra.values() if isinstance(extra, Mapping) else extra)]
        self.all_special_tokens = [text for text in map(_text, named) if text]
        decoder = settings.get("added_tokens_decoder") or {}
        self._core.add_special_tokens([*map(str, map(_text, decoder.values())), *self.all_special_tokens])
        self._core.add_tokens(list(_read(folder / "added_tokens.json")))
        self.added_tokens_decoder = self._core.get_added_tokens_decoder()

    @property
    def eos_token_id(self) -> int | None:
        return self._core.token_to_id(self.eos_token) if self.eos_token else None

    @property
    def pad_token_id(self) -> int | None:
        return self._core.token_to_id(self.pad_token) if self.pad_token else None

    def __len__(self) -> int:
        return int(self._core.get_vocab_size())

    def get_vocab(self) -> dict[str, int]:
        return dict(self._core.get_vocab())

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return list(self._core.encode(text, add_special_tokens=add_special_tokens).ids)

    def decode(self, ids: list[int]) -> str:
        return str(self._core.decode(ids, skip_special_tokens=False))


def _text(token: Any) -> str | None:
    """A token's text: written plainly, or as an object with its flags."""
    found = token.get("content") if isinstance(token, Mapping) else token
    return found if isinstance(found, str) else None
