"""Whether a folder is a model, told from names and headers alone, before any weight is read."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from hantune.errors import ModelError
from hantune.models.headers import INDEX, read_header, weight_files
from hantune.paths import quoted

LFS_START = b"version https://git-lfs"
PAPERS = ("LICENSE*", "NOTICE*", "USE_POLICY*")
"""What a licence asks to pass on with the weights."""
SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")


def require_model(folder: Path) -> list[Path]:
    """The weight files of ``folder``, every one present and as long as its header says.

    Raises: ModelError ``model.adapter-not-model``, ``model.meta-layout``, ``model.pickle-only``, ``model.no-weights``,
        ``model.no-config``, ``model.bad-config``, ``model.bad-index``, ``model.shard-missing``, ``model.lfs-pointer``,
        ``model.torn-file``.
    """
    for problem in weight_problems(folder):
        raise problem
    return weight_files(folder)


def weight_problems(folder: Path) -> Iterator[ModelError]:
    """What is wrong with the config and the weight files, told from names and headers."""
    try:
        files = weight_files(folder)
        if not files:
            yield _no_weights(folder)
            return
        read_config(folder)
    except ModelError as error:
        yield error
        return
    missing = [path.name for path in files if not path.exists()]
    if missing:
        yield ModelError(
            "model.shard-missing",
            f"索引里的 {len(files)} 个权重文件缺了 {len(missing)} 个: {'、'.join(missing[:3])}",
            place=str(folder / INDEX),
            hint="把缺的文件补齐 (重新下载或拷贝), 然后 hantune model check 文件夹",
        )
    for path in files:
        try:
            if path.exists():
                require_no_pointer(path)
                read_header(path)
        except ModelError as error:
            yield error


def _no_weights(folder: Path) -> ModelError:
    """Why there are no safetensors in ``folder``, as far as the other names tell."""
    names = {item.name for item in folder.iterdir()}
    typed = quoted(folder)
    if "adapter_config.json" in names:
        return ModelError(
            "model.adapter-not-model",
            "这是适配器文件夹, 只有几 MB 的改动, 不是完整的模型",
            place=str(folder),
            hint=f"直接用它聊天: hantune chat {typed}; 或合成完整模型: hantune model merge {typed} --out 新文件夹",
        )
    if shards := sorted(name for name in names if SHARD.fullmatch(name)):
        return ModelError(
            "model.bad-index",
            f"有权重分片 ({shards[0]} 等 {len(shards)} 个), 但是没有索引 {INDEX}",
            place=str(folder / INDEX),
            hint=f"从下载这个模型的地方补上 {INDEX}, 然后 hantune model check {typed}",
        )
    if any(name.startswith("consolidated.") for name in names) or "params.json" in names:
        return ModelError(
            "model.meta-layout",
            "这是 Meta 原版的权重 (consolidated.*.pth, params.json), 不是 Hugging Face 格式",
            place=str(folder),
            hint=f"先转换: hantune model convert {typed} --out 新文件夹 (对话模型加 --chat)",
        )
    if any(name.startswith("pytorch_model") and name.endswith((".bin", ".bin.index.json")) for name in names):
        return ModelError(
            "model.pickle-only",
            "权重是 pickle 格式 (pytorch_model*.bin): 打开它等于运行里面的程序, hantune 不打开",
            place=str(folder),
            hint=f"转换成 safetensors (只读数字, 什么也不运行): hantune model convert {typed} --out 新文件夹",
        )
    inner = [name for name in ("model", "merged", "adapter") if (folder / name).is_dir()]
    hint = "补上 model.safetensors, 或新建: hantune model init 文件夹"
    if inner:
        hint = f"模型也许在里面: hantune model check {quoted(folder / inner[0])}"
    return ModelError("model.no-weights", "文件夹里没有模型权重 (*.safetensors)", place=str(folder), hint=hint)


def require_no_pointer(path: Path) -> None:
    """Nothing, unless ``path`` is the note that git leaves where Git LFS should have put the file.

    Raises: ModelError ``model.lfs-pointer``.
    """
    with path.open("rb") as file:
        if file.read(len(LFS_START)) == LFS_START:
            raise ModelError(
                "model.lfs-pointer",
                f"{path.name} 只是 Git LFS 的占位文件, 真正的内容没有下载",
                place=str(path),
                hint=f"cd {quoted(path.parent)} && git lfs install && git lfs pull",
            )


def read_config(folder: Path) -> dict[str, Any]:
    """``config.json`` as it stands.

    Raises: ModelError ``model.no-config``, ``model.bad-config``.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(
            "model.no-config", "有权重, 但是没有 config.json", place=str(folder), hint="从原来的模型拷来 config.json"
        )
    require_no_pointer(path)
    try:
        config = json.loads(path.read_bytes())
        config["model_type"]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(
            "model.bad-config",
            "config.json 读不懂: 不是完整的 JSON, 或者没有 model_type",
            place=str(path),
            hint="从原来的模型重新拷一份 config.json",
        ) from error
    return dict(config)


def leads_out(path: Path) -> bool:
    """Whether ``path`` is a link to somewhere outside its folder. The hub's cache, made of links, counts as inside."""
    root, goal = path.parent.resolve(), path.resolve()
    in_cache = next((parent for parent in root.parents if parent.name.startswith("models--")), None)
    return not goal.is_relative_to(root) and not (in_cache and goal.is_relative_to(in_cache / "blobs"))


def copy_beside(source: Path, folder: Path, names: Iterable[str]) -> list[str]:
    """The names of the files (``names`` may hold ``*``) that were copied to ``folder``.

    A link that leads out of ``source`` is left behind: a model from elsewhere must not take somebody's files along.
    """
    found = sorted({path for name in names for path in source.glob(name) if path.is_file() and not leads_out(path)})
    for path in found:
        shutil.copyfile(path, folder / path.name)
    return [path.name for path in found]
