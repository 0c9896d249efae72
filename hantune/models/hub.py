"""From a model's name to a folder: local paths as they are, names on a hub through what was fetched, or by fetching.

A fetched folder holds ``hantune-source.json``: hub, id, revision, and size and sha256 of every file, so that an
adapter trained on it can name its base, and a web server that offers the folder offers the hashes too.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from hantune.data.hubs import PREFIXES
from hantune.env import environment
from hantune.errors import ModelError, NetworkError, RunError
from hantune.log import console
from hantune.models.fetch.listing import Listing, list_model, problem_of
from hantune.models.fetch.needed import SOURCE, choose
from hantune.models.fetch.part import Proof
from hantune.models.fetch.transfer import RefusedByServer, transfer
from hantune.paths import disk_errors, held, write_json

_WORD = r"[A-Za-z0-9_][\w.-]*"
HUB_ID = re.compile(f"{_WORD}/{_WORD}")
FILES = ["*.json", "*.safetensors", "*.model", "*.jinja", "*.txt", "*.tiktoken"]
"""What a snapshot in Hugging Face's own cache must have to be used: never pickles, never code."""
FORMAT = 1
LOCK = ".download.lock"
_PAGES = {
    "huggingface.co": "hf", "hf.co": "hf", "hf-mirror.com": "hf", "modelscope.cn": "modelscope", "www.modelscope.cn":
    "modelscope",
}  # fmt: skip
"""Hosts whose pages people copy from the browser -> the hub."""


class Wanted(NamedTuple):
    """A model's name as a hub knows it, and where it is to come from."""

    name: str
    source: str
    revision: str | None


def is_hub_id(name: str) -> bool:
    """Whether ``name`` can only mean a repository: ``owner/name``, and no such folder lies around."""
    return bool(HUB_ID.fullmatch(name)) and not Path(name).exists() and not Path(name).parent.is_dir()


def local_folder(name: str | Path, *, revision: str | None = None) -> Path:
    """The folder that holds the model, adapter or tokenizer called ``name``; a name on a hub is fetched if need be.

    Raises: ModelError ``model.not-found`` for a path or repository that does not exist;
        NetworkError ``hub.unreachable`` when it was never fetched and the hub does not answer; what ``get_model`` does.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if not is_hub_id(str(name)):
        raise not_found(path)
    is_told = False
    while True:
        if found := _fetched(str(name), revision) or _cached(str(name), revision):
            return found
        try:
            return Path(get_model(str(name), revision=revision)["folder"])
        except RunError as error:
            if error.code != "run.in-use":
                raise
            if not is_told:
                console.say(f"另一个进程正在下载 {name}, 等它下完")
            is_told = True
            time.sleep(1.0)


def not_found(path: Path) -> ModelError:
    """The error for a path, with the nearest names that do exist."""
    if path.is_file():
        message, hint = "这是一个文件, 需要的是装模型的文件夹", f"写它所在的文件夹: {path.parent}"
    else:
        parent = path.parent
        names = sorted(item.name for item in parent.iterdir() if item.is_dir()) if parent.is_dir() else []
        near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.5)
        message = "没有这个模型文件夹" + (f"; 名字相近的有: {'、'.join(near)}" if near else "")
        hint = f"改成 {parent / near[0]}" if near else "先用 ls 看看路径, 或者新建一个: hantune model init 文件夹"
    return ModelError("model.not-found", message, place=str(path), hint=hint)


def own_folder(name: str, revision: str | None = None) -> Path:
    """Where ``model get`` puts a model that nobody gave a place."""
    version = f"@{revision.replace('/', '--')}" if revision else ""
    return environment().home / "models" / (name.replace("/", "--") + version)


def _fetched(name: str, revision: str | None) -> Path | None:
    """The whole folder that was fetched for ``name``, in this revision."""
    for folder in (own_folder(name, revision), own_folder(name)):
        record = read_source(folder)
        if record.get("complete") and revision in (None, record.get("revision"), record.get("asked")):
            return folder
    return None


def _cached(name: str, revision: str | None) -> Path | None:
    """The whole snapshot in the cache of Hugging Face's library; nothing is fetched."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=FILES, local_files_only=True))
    except (LocalEntryNotFoundError, OSError, ValueError):
        return None
    return folder if any(folder.glob("*.safetensors")) or (folder / "tokenizer_config.json").is_file() else None


def read_source(folder: Path) -> dict[str, Any]:
    """What ``model get`` noted of a folder; {} where it did not make it."""
    try:
        record = json.loads((folder / SOURCE).read_bytes())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) and record.get("format") == FORMAT else {}


def hub_origin(folder: Path) -> tuple[str, str] | None:
    """(id on Hugging Face, revision) when ``folder`` was fetched from there, by us or by its own library, else None."""
    record = read_source(folder)
    if record.get("hub") == "hf" and record.get("revision"):
        return str(record["id"]), str(record["revision"])
    for parent in (folder, *folder.parents):
        if parent.name.startswith("models--") and parent / "snapshots" in folder.parents:
            return parent.name.removeprefix("models--").replace("--", "/"), folder.name
    return None


def wanted(name: str, source: str = "hf", revision: str | None = None) -> Wanted:
    """What a user means by ``name``: ``owner/name``, ``modelscope:owner/name``, a page's address, a folder's address.

    Raises: ModelError ``model.not-found`` for what is none of these.
    """
    for prefix, hub in PREFIXES.items():
        if name.lower().startswith(prefix):
            return wanted(name[len(prefix) :], hub, revision)
    if name.startswith(("http://", "https://")):
        return _from_page(name, revision)
    if not re.fullmatch(f"{_WORD}(/{_WORD})?", name) or (source in PREFIXES.values() and "/" not in name):
        raise ModelError(
            "model.not-found",
            "这不是模型在网上的名字 (作者/模型)",
            place=name,
            hint="例如 hantune model get Qwen/Qwen3-0.6B",
        )
    return Wanted(name, source, revision)


def _from_page(address: str, revision: str | None) -> Wanted:
    """A page of a hub, with or without ``/tree/REVISION``; any other address is a folder on a web server."""
    parts = urlsplit(address)
    words = [unquote(word) for word in parts.path.split("/") if word]
    hub = _PAGES.get(parts.netloc.lower())
    if hub == "modelscope" and words[:1] == ["models"]:
        words = words[1:]
    if hub is None or len(words) < 2:
        return Wanted("", address, revision)
    if len(words) > 3 and words[2] in ("tree", "resolve", "blob"):
        revision = revision or words[3]
    return Wanted("/".join(words[:2]), hub, revision)


def get_model(
    name: str,
    *,
    source: str = "hf",
    revision: str | None = None,
    out: Path | None = None,
    send_token: bool = False,
) -> dict[str, Any]:
    """{folder, id, hub, revision, kind, files, bytes, fetched, left_out, unproved}: a whole, proved copy of a model.

    Stopped anywhere, the same call goes on where it was. ``unproved``: files whose source told no hash.

    Raises: ModelError ``model.not-found``; RefusedError ``hub.gated``, ``hub.unsafe-name``, ``hub.no-model``; RunError
        ``run.exists``, ``run.in-use``; NetworkError ``hub.*``; MachineError ``machine.no-room``, ``hub.no-library``.
    """
    name, source, revision = wanted(name, source, revision)
    is_online = source in PREFIXES.values() or source.startswith("http")
    if environment().offline and is_online:
        raise NetworkError(
            "hub.unreachable",
            f"本地没有 {name or source}, 而 HF_HUB_OFFLINE=1 不许上网",
            place=name or source,
            hint="unset HF_HUB_OFFLINE 再试, 或者写本地模型文件夹的路径",
        )
    listing = list_model(name, source, revision=revision, send_token=send_token)
    if listing.is_gated and listing.token is None:
        raise problem_of(listing, 401, "")
    kind, names = choose([file.path for file in listing.files], place=listing.page)
    folder = out or own_folder(listing.id, revision)
    with _alone(folder, listing):
        proofs, fetched = _fetch(listing, names, folder, revision)
        _take_away_old(folder, set(names))
    sizes = {file.path: file.size or 0 for file in listing.files}
    return {
        "folder": str(folder), "id": listing.id, "hub": listing.hub, "revision": listing.revision, "kind": kind,
        "files": len(names), "bytes": sum(proof.size for proof in proofs.values()), "fetched": fetched,
        "left_out": {"files": len(sizes) - len(names), "bytes": sum(sizes.values()) - sum(sizes[n] for n in names)},
        "unproved": sorted(file.path for file in listing.files if file.path in names and not file.has_hash),
    }  # fmt: skip


@contextlib.contextmanager
def _alone(folder: Path, listing: Listing) -> Iterator[None]:
    """Hold ``folder``, which is empty, or a copy of the same model that is whole or not.

    Raises: RunError ``run.exists``, ``run.in-use``; MachineError ``machine.no-write``.
    """
    with disk_errors(folder):
        there = read_source(folder)
        is_other = (there.get("hub"), there.get("id")) != (listing.origin or listing.hub, listing.id)
        if folder.is_file() or (folder.is_dir() and is_other and any(item.name != LOCK for item in folder.iterdir())):
            what = f"已经是 {there['id']}" if there.get("id") else "已经有别的东西"
            raise RunError(
                "run.exists", f"这个文件夹里{what}, 不是 {listing.id}", place=str(folder), hint="换一个 --out"
            )
        folder.mkdir(parents=True, exist_ok=True)
        with held(folder / LOCK):
            yield
            (folder / LOCK).unlink()


def _fetch(listing: Listing, names: tuple[str, ...], folder: Path, asked: str | None) -> tuple[dict[str, Proof], int]:
    """Fetch, and note in the folder what it is a copy of: before the first byte, and again when it is whole."""
    record: dict[str, Any] = {
        "format": FORMAT, "hub": listing.origin or listing.hub, "id": listing.id, "revision": listing.revision,
        "asked": asked,
    }  # fmt: skip
    write_json(folder / SOURCE, record | {"complete": False})
    files = [file for file in listing.files if file.path in names]
    console.say(f"{listing.id}: 要 {len(files)} 个文件, 来自 {listing.page}")
    try:
        proofs, fetched = transfer(files, folder, token=listing.token)
    except RefusedByServer as error:
        raise problem_of(listing, error.status, error.file.path) from error
    entries = {path: {"size": proof.size, "sha256": proof.sha256} for path, proof in proofs.items()}
    write_json(folder / SOURCE, record | {"complete": True, "files": entries})
    return proofs, fetched


def _take_away_old(folder: Path, names: set[str]) -> None:
    """Weights of another version of the same model must not stay beside the new ones."""
    for path in (*folder.glob("*.safetensors"), *folder.glob("*.index.json"), *folder.glob("*.part*")):
        if path.name not in names:
            path.unlink()
