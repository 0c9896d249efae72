"""From a model's name to a folder: local paths as they are, hub ids through the hub's cache."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from hantune.errors import ModelError, NetworkError

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
FILES = ["*.json", "*.safetensors", "*.model", "*.jinja", "*.txt", "*.tiktoken"]
"""What is fetched of a repository: never pickles, never code."""


def is_hub_id(name: str) -> bool:
    """Whether ``name`` can only mean a repository: ``owner/name``, and no such folder lies around."""
    return bool(HUB_ID.fullmatch(name)) and not Path(name).exists() and not Path(name).parent.is_dir()


def local_folder(name: str | Path, *, revision: str | None = None) -> Path:
    """The folder that holds the model, adapter or tokenizer called ``name``.

    Raises: ModelError ``model.not-found`` for a path or repository that does not exist;
        NetworkError ``hub.unreachable`` when it is not in the cache and the hub does not answer.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if not is_hub_id(str(name)):
        raise _not_found(path)
    return _from_hub(str(name), revision)


def _not_found(path: Path) -> ModelError:
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


def _from_hub(name: str, revision: str | None) -> Path:
    """The cached or fetched snapshot of a repository."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=FILES))
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise ModelError(
            "model.not-found",
            f"Hugging Face 上没有 {name}" + (f" 的版本 {revision}" if revision else "") + ", 或者它需要登录",
            place=name,
            hint="核对名字; 需要授权的模型先登录: hf auth login",
        ) from error
    except (OSError, HfHubHTTPError, ValueError) as error:
        raise NetworkError(
            "hub.unreachable",
            f"本地没有 {name}, 也连不上 Hugging Face",
            place=name,
            hint="连上网络再试 (国内可先 export HF_ENDPOINT=镜像网址), 或者写本地模型文件夹的路径",
        ) from error


def hub_origin(folder: Path) -> tuple[str, str] | None:
    """(hub id, revision) when ``folder`` is a snapshot in the hub's cache, else None."""
    for parent in (folder, *folder.parents):
        if parent.name.startswith("models--") and parent / "snapshots" in folder.parents:
            return parent.name.removeprefix("models--").replace("--", "/"), folder.name
    return None
