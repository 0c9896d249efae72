"""Tokenizers: loading with a pad that is never the end mark, and copying them without changing one id.

They are copied file by file: saving a Llama 2 tokenizer through transformers 5 drops ``legacy``, and text behind a
special token then gets other ids (measured: ``</s><s>习``).
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from hantune.errors import ModelError
from hantune.models.folder import require_no_pointer
from hantune.models.hub import local_folder

MAIN_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
"""One of them makes a folder a tokenizer folder."""
FILES = (*MAIN_FILES, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt",
         "chat_template.jinja")  # fmt: skip
PATH_KEYS = ("name_or_path", "tokenizer_file", "special_tokens_map_file", "vocab_file", "is_local", "local_files_only")
"""Keys of ``tokenizer_config.json`` that tell where somebody's disk had the file."""

PAD_NAMES = ("<pad>", "[PAD]", "<PAD>", "<|pad|>", "<|padding|>", "<|finetune_right_pad_id|>", "<|endoftext|>",
             "<|reserved_special_token_0|>", "<unused0>", "<reserved_0>", "<extra_id_0>")  # fmt: skip
"""Special tokens made for padding, then ones kept in reserve."""


def has_tokenizer(folder: Path) -> bool:
    """Whether ``folder`` holds a tokenizer."""
    return any((folder / name).is_file() for name in MAIN_FILES)


def load_tokenizer(path: str | Path, *, revision: str | None = None) -> Any:
    """The tokenizer of a model, adapter or tokenizer folder (or hub id), with a pad token that is not the eos.

    Raises: ModelError ``model.not-found``, ``model.no-tokenizer``, ``model.bad-tokenizer``, ``model.lfs-pointer``,
        ``model.no-pad``; NetworkError ``hub.unreachable``.
    """
    from transformers import AutoTokenizer

    folder = local_folder(path, revision=revision)
    if not has_tokenizer(folder):
        raise ModelError(
            "model.no-tokenizer",
            "文件夹里没有分词器 (tokenizer.json 或 tokenizer.model)",
            place=str(folder),
            hint="从原来的模型拷来 tokenizer 开头的文件, 或者在配置里写 model.tokenizer=分词器文件夹",
        )
    for name in FILES:
        if (folder / name).is_file():
            require_no_pointer(folder / name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # every tokenizer class fails in its own way on a broken file
        raise ModelError(
            "model.bad-tokenizer",
            f"分词器打不开: {_first_line(error)}",
            place=str(folder),
            hint="从原来的模型重新拷一份 tokenizer 开头的文件",
        ) from error
    pad, _ = choose_pad(tokenizer)
    if pad != tokenizer.pad_token:
        tokenizer.pad_token = pad
    return tokenizer


def _first_line(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return "里面有一个文件不是完整的 JSON"
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def choose_pad(tokenizer: Any) -> tuple[str, str]:
    """(pad token, reason in Chinese). The vocabulary never grows, no id changes, and eos is never taken.

    Raises: ModelError ``model.no-pad`` when no token can serve.
    """
    if tokenizer.pad_token is not None and tokenizer.pad_token_id != tokenizer.eos_token_id:
        return tokenizer.pad_token, "分词器自带"
    special = set(tokenizer.all_special_tokens) | {str(token) for token in tokenizer.added_tokens_decoder.values()}
    taken = {tokenizer.eos_token, tokenizer.bos_token}
    for name in PAD_NAMES:
        if name in special and name not in taken:
            return name, f"分词器没有填充符, 借用预留的 {name}"
    if tokenizer.unk_token is not None and tokenizer.unk_token not in taken:
        return tokenizer.unk_token, f"分词器没有填充符, 借用 {tokenizer.unk_token} (按位置遮住, 不会被学习)"
    raise ModelError(
        "model.no-pad",
        "分词器没有填充符 (pad), 也没有能借用的特殊词元; 用结束符 (eos) 填充会让模型学不会停",
        place=str(tokenizer.name_or_path or ""),
        hint='在 tokenizer_config.json 里加一行 "pad_token": "某个不用的特殊词元"',
    )


def num_ids(tokenizer: Any) -> int:
    """How many embedding rows the tokenizer needs: one more than its largest id (ids may have gaps)."""
    return max(len(tokenizer), 1 + max(tokenizer.get_vocab().values(), default=-1))


def require_room_for_ids(rows: int, tokenizer: Any, *, place: str) -> None:
    """Nothing, if each of the tokenizer's ids has one of the model's ``rows``.

    Raises: ModelError ``model.vocab-too-small``.
    """
    needed = num_ids(tokenizer)
    if needed > rows:
        raise ModelError(
            "model.vocab-too-small",
            f"分词器有 {needed} 个编号, 模型的词表只有 {rows} 行: 多出的编号会越界",
            place=place,
            hint="换回模型自己的分词器; 多的若是后加的 <PAD>, 从 tokenizer.json (added_tokens) "
            "和 tokenizer_config.json 里都删掉它",
        )


def read_chat_template(folder: Path) -> str | None:
    """The Jinja chat template that ``folder`` ships, or None. ``chat_template.jinja`` goes before the config's."""
    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    path = folder / "tokenizer_config.json"
    found = json.loads(path.read_bytes()).get("chat_template") if path.is_file() else None
    if isinstance(found, list):  # several, by name
        found = {entry.get("name"): entry.get("template") for entry in found}.get("default")
    return found if isinstance(found, str) else None


def read_specials(folder: Path) -> tuple[str, ...]:
    """The added tokens of the tokenizer in ``folder`` (``<|im_start|>`` ...), without loading it."""
    path = folder / "tokenizer.json"
    tokens = json.loads(path.read_bytes()).get("added_tokens", []) if path.is_file() else []
    return tuple(str(token["content"]) for token in tokens)


def copy_tokenizer(tokenizer: Any, folder: Path, *, chat_template: str | None) -> None:
    """Put the tokenizer's own files into ``folder``, with ``chat_template`` in both places where tools look for it."""
    source = Path(str(tokenizer.name_or_path or ""))
    if tokenizer.name_or_path and has_tokenizer(source):
        for name in FILES:
            if (source / name).is_file():
                shutil.copyfile(source / name, folder / name)
    else:
        tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_bytes()) if path.is_file() else {}
    for key in (*PATH_KEYS, "chat_template"):
        config.pop(key, None)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    if chat_template is not None:
        config["chat_template"] = chat_template
        (folder / "chat_template.jinja").write_bytes(chat_template.encode())
    path.write_text(json.dumps(config, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
