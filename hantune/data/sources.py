"""Rows out of files: which files a name stands for, what they hold by their first bytes, and their records one by one.

A name is a file, a folder, a zip, a folder that ``data prepare`` or ``datasets`` wrote, or a data set on a hub; with
``#500`` or ``:0.2`` behind it, a sample of that. What the files may hold: ``rows`` (text) and ``tables``; how they may
be packed: ``packed``. Records carry ``file:line``; where several share a line, ``file:line#number``.
"""

from __future__ import annotations

import difflib
import errno
import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

from hantune.data import encoding, hubs, packed
from hantune.data.container import (
    PARTS,
    PROSE,
    SUFFIXES,
    TABLE_MAGIC,
    Part,
    container_of,
    head_of,
    refuse_foreign,
    suffix_of,
    table_of,
)
from hantune.data.dataset_info import layout_of
from hantune.data.prepared import is_prepared, open_prepared
from hantune.data.rows import RECORD_CHARACTERS, SourceFile, read_text
from hantune.data.sample import sampled, split_sample
from hantune.data.tables import read_table
from hantune.data.types import Reject, Row
from hantune.env import environment
from hantune.errors import ConfigError, DataError, MachineError, NetworkError
from hantune.log import console
from hantune.paths import TEMPORARY, disk_errors, quoted, sha256_file

__all__ = ["RECORD_CHARACTERS", "Place", "SourceFile", "expand", "inspect", "read_parts", "read_rows"]
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)
TABLES = frozenset(kind for _, kind in TABLE_MAGIC)
ABOUT = (
    "readme",
    "license",
    "licence",
    "changelog",
    "contributing",
    "说明",
    "使用说明",
    "dataset_info",
    "dataset_dict",
)
"""How names begin of files that lie beside data and are about it."""


class Place(NamedTuple):
    """A file and the name it has in every ``source``: as the user gave it, without folders that are his alone.

    ``member``, ``part`` and ``sample`` are as in ``SourceFile``.
    """

    path: Path
    name: str
    member: str = ""
    part: Part = None
    sample: str = ""


def expand(given: str) -> list[Place]:
    """The files behind a name, in the order of their names; a data set on a hub is fetched first.

    Raises: DataError ``source.missing``, ``source.wrong-type``, ``source.unsafe-archive``, ``source.broken-archive``;
        ConfigError ``source.bad-sample``; NetworkError ``source.hub-unreachable``.
    """
    path = Path(given).expanduser()
    if path.exists():
        return _local(path)
    name, sample = split_sample(given)
    if sample:
        places = expand(name)
        if sample.startswith("#") and len(places) > 1:
            raise ConfigError(
                "source.bad-sample",
                f"{name} 里有 {len(places)} 个文件, #条数 只能用在一个文件上",
                place=given,
                hint=f"写成比例, 如 {name}:0.2; 或者逐个文件写 #条数",
            )
        return [place._replace(name=place.name + sample, sample=sample) for place in places]
    data_set = hubs.data_set(given)
    if data_set is None:
        raise _missing(path)
    return _from_hub(data_set)


def _local(path: Path) -> list[Place]:
    """The files behind a path that exists."""
    name = path.name if path.is_absolute() else path.as_posix()
    if is_prepared(path):
        return [Place(path, name)]
    if path.is_file():
        return _members(Place(path, name))
    if not path.is_dir():
        raise DataError("source.wrong-type", "这不是普通文件", place=str(path), hint="先把内容存成一个文件")
    saved = _saved(path, name)
    if saved:
        return saved
    files = sorted(_below(path, SUFFIXES), key=lambda file: file.relative_to(path).as_posix())
    files = files or sorted(_below(path, PROSE))
    if not files:
        raise DataError(
            "source.missing",
            f"文件夹里没有数据文件 (能读 {' '.join(SUFFIXES)} .md, 也可以再压成 {' '.join(packed.PACKED)})",
            place=str(path),
            hint=f"ls {quoted(path)}",
        )
    places = [Place(file, f"{name}/{file.relative_to(path).as_posix()}") for file in files]
    return [member for place in places for member in _members(place)]


def _below(folder: Path, suffixes: tuple[str, ...]) -> Iterator[Path]:
    """Data files below a folder, leaving out hidden ones, those about the data, and what hantune wrote there itself."""
    for path in folder.iterdir():
        if path.name.startswith((".", TEMPORARY)):
            continue
        if path.is_dir():
            if not is_prepared(path):
                yield from _below(path, suffixes)
        elif path.is_file() and _is_data(path, suffixes):
            yield path


def _is_data(path: Path | PurePosixPath, suffixes: tuple[str, ...]) -> bool:
    """Whether a file of a folder or zip is meant to be read, by its name."""
    suffix = suffix_of(Path(path))
    is_wanted = suffix in suffixes or (suffix == ".zip" and suffixes is SUFFIXES)
    return is_wanted and not path.name.lower().startswith(ABOUT)


def _members(place: Place) -> list[Place]:
    """The data files of a zip; of any other file itself."""
    if not packed.is_zip(place.path):
        return [place]
    names = packed.members(place.path)
    if "xl/workbook.xml" in names:
        return [place]
    if "word/document.xml" in names:
        hint = "用 Word 或 WPS 打开, 另存为纯文本 (.txt, 编码 UTF-8), 把它交给 hantune"
        raise DataError("source.wrong-type", "内容其实是 Word 文档, 不是能直接读的文件", place=place.name, hint=hint)
    chosen = [name for name in names if _is_data(PurePosixPath(name), SUFFIXES)]
    chosen = chosen or [name for name in names if _is_data(PurePosixPath(name), PROSE)]
    if not chosen:
        raise DataError(
            "source.wrong-type",
            f"压缩包里没有数据文件 (有 {'、'.join(names[:3]) or '空的文件夹'})",
            place=place.name,
            hint=f"里面应当有 {' '.join(SUFFIXES)}",
        )
    return [place._replace(name=f"{place.name}/{name}", member=name) for name in chosen]


def _saved(folder: Path, name: str) -> list[Place]:
    """The files of a folder that ``datasets`` saved, each for the part that its split is named after; else none."""
    try:
        if (folder / "dataset_dict.json").is_file():
            splits = json.loads((folder / "dataset_dict.json").read_bytes())["splits"]
            parts: list[tuple[str, Part]] = [(str(split), PARTS.get(str(split))) for split in splits]
        else:
            parts = [("", None)]
        places = []
        for split, part in parts:
            if split and Path(split).name != split or not (folder / split / "state.json").is_file():
                return []
            files = json.loads((folder / split / "state.json").read_bytes())["_data_files"]
            names = [str(PurePosixPath(split, Path(file["filename"]).name)) for file in files]
            places += [Place(folder / file, f"{name}/{file}", part=part) for file in names]
    except (ValueError, KeyError, TypeError):
        return []
    torn = [place for place in places if not place.path.is_file()]
    if torn:
        raise DataError("source.missing", "保存的数据集不完整, 缺这个文件", place=torn[0].name, hint="重新保存或拷贝")
    return places


def _missing(path: Path) -> DataError:
    """The error for a name that is not there, with the names that look like it."""
    folder = path.parent
    names = [item.name for item in folder.iterdir()] if folder.is_dir() else []
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.5)
    hint = f"是不是 {'、'.join(near)}?" if near else f"文件夹 {folder} 里有什么: ls {quoted(folder)}"
    if not folder.is_dir():
        hint = f"文件夹 {folder} 也不存在, 检查路径"
    return DataError("source.missing", f"没有这个文件: {path.name}", place=str(path), hint=hint)


def _from_hub(data_set: hubs.DataSet) -> list[Place]:
    """The files of a data set, each for the part its name tells.

    Raises: NetworkError ``source.hub-unreachable``; DataError ``source.missing``.
    """
    console.say(f"{data_set.id} 是 {hubs.TITLES[data_set.hub]} 上的数据集, 缓存里没有的就下载")
    folder = _fetch(data_set)
    missing = [file for file in data_set.files if not (folder / file).is_file()]
    if missing:
        raise _unreachable(data_set, f"{missing[0]} 没有下载完")
    if data_set.files:
        places = [Place(folder / file, f"{data_set.id}/{file}") for file in data_set.files]
    else:
        named = ((place, place.name.removeprefix(folder.name)) for place in _local(folder))
        places = [place._replace(name=data_set.id + name) for place, name in named]
    inside = f"{data_set.id}/"  # the id may hold a word like "train" too
    return [place._replace(part=place.part or hubs.part_of(place.name.removeprefix(inside))) for place in places]


def _fetch(data_set: hubs.DataSet) -> Path:
    """The folder of the data set's files in the hub's own cache.

    Raises: NetworkError ``source.hub-unreachable``; DataError ``source.missing``; MachineError ``source.hub-library``,
        ``machine.disk-full``, ``machine.no-write``.
    """
    with disk_errors(environment().home):
        return _snapshot(data_set, list(data_set.files) or hubs.PATTERNS)


def _snapshot(data_set: hubs.DataSet, patterns: list[str]) -> Path:
    try:
        if data_set.hub == "modelscope":
            from modelscope import dataset_snapshot_download

            return Path(dataset_snapshot_download(data_set.id, allow_patterns=patterns))
        from huggingface_hub import snapshot_download

        token = False if environment().hf_endpoint else None  # a mirror gets no token, which is the hub's own
        return Path(snapshot_download(data_set.id, repo_type="dataset", allow_patterns=patterns, token=token))
    except ImportError as error:
        raise MachineError(
            "source.hub-library",
            "没有安装 modelscope, 不能从魔搭下载",
            place=data_set.id,
            hint='.venv/bin/python -m pip install -e ".[modelscope]" -c constraints.txt',
        ) from error
    except Exception as error:  # each hub has errors of its own for the same few causes
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            raise
        if type(error).__name__ in ("RepositoryNotFoundError", "GatedRepoError", "NotExistError"):
            raise DataError(
                "source.missing",
                f"没有这个文件; {hubs.TITLES[data_set.hub]} 上也没有数据集 {data_set.id}, 或者它需要登录",
                place=data_set.id,
                hint="核对路径或名字; 需要授权的数据集先登录: hf auth login",
            ) from error
        raise _unreachable(data_set, f"连不上 {hubs.TITLES[data_set.hub]}") from error


def _unreachable(data_set: hubs.DataSet, why: str) -> NetworkError:
    """What to do where there is no network."""
    page = hubs.PAGES[data_set.hub].format(id=data_set.id)
    files = " ".join(data_set.files) or "里面的数据文件"
    return NetworkError(
        "source.hub-unreachable",
        f"本地没有 {data_set.id}, {why}",
        place=data_set.id,
        hint=f"在能上网的机器上打开 {page} , 下载 {files}, 拷过来, 再把文件的路径写在这里; "
        "国内连 Hugging Face 可先 export HF_ENDPOINT=镜像网址",
    )


def inspect(place: Place | Path) -> SourceFile:
    """What a file holds, by its first bytes rather than its name.

    Raises: DataError ``source.empty``, ``source.wrong-type``, ``source.encoding``, ``source.broken-gzip``,
        ``source.broken-archive``, ``source.unsafe-archive``.
    """
    if isinstance(place, Path):
        alone = [Place(place, place.name)] if is_prepared(place) else _members(Place(place, place.name))
        place = alone[0] if len(alone) == 1 else Place(place, place.name)
    path, name, member, part, sample = place
    if is_prepared(path):
        fingerprint = open_prepared(path).fingerprint
        source = SourceFile(path=path, name=name, sha256=fingerprint, container="prepared", encoding="-")
        return replace(source, part=part, sample=sample)
    with packed.errors(path, member):
        head = head_of(path, name, member)
        kind, codec = table_of(path, head, member), "-"
        if not kind:
            refuse_foreign(head, name)
            codec = encoding.sniff(path, member)
            kind = container_of(path, codec, member)
    layout = layout_of(path)
    sha256 = sha256_file(path)
    if layout:
        console.say(f"{name}: 列名按旁边的 dataset_info.json ({layout.entry})")
        sha256 = hashlib.sha256(f"{sha256} {layout}".encode()).hexdigest()
    return SourceFile(
        path=path, name=name, sha256=sha256, container=kind, encoding=codec,
        member=member, part=part, sample=sample, layout=layout,
    )  # fmt: skip


def read_rows(path: Path | SourceFile) -> Iterator[Row | Reject]:
    """The records of a file but those of its ``test`` part, streaming; broken ones are rejects.

    Raises: DataError ``source.*`` for files that cannot be read at all.
    """
    source = inspect(path) if isinstance(path, Path) else path
    return (item for part, item in read_parts(source) if part != "test")


def read_parts(source: SourceFile) -> Iterator[tuple[Part, Row | Reject]]:
    """Each record of a file (or of its sample) with the part that the file itself puts it in.

    Raises: DataError ``source.*`` for files that turn out to be torn.
    """
    if source.sample:
        return sampled(source.sample, source.sha256, lambda: _all_parts(source))
    return _all_parts(source)


def _all_parts(source: SourceFile) -> Iterator[tuple[Part, Row | Reject]]:
    if source.container == "prepared":
        yield from _prepared_rows(source)
        return
    with packed.errors(source.path, source.member):
        records: Iterator[tuple[Part, Row | Reject]]
        if source.container in TABLES:
            table = read_table(source.path, source.place, source.container, source.member)
            records = ((None, item) for item in table)
        else:
            records = read_text(source)
        if source.part is None and source.layout is None:
            yield from records
            return
        for part, item in records:
            if source.layout and isinstance(item, Row):
                item = Row(value=source.layout.apply(item.value), source=item.source)
            yield source.part or part, item


def _prepared_rows(source: SourceFile) -> Iterator[tuple[Part, Row | Reject]]:
    """What ``data prepare`` wrote, in its own parts and with its own sources."""
    prepared = open_prepared(source.path)
    parts: tuple[Literal["train"], Literal["val"]] = ("train", "val")
    for part in parts:
        for conversation in prepared.conversations(part):
            messages = [
                {"role": message.role, "content": message.text, "learn": message.is_learned}
                for message in conversation.messages
            ]
            yield part, Row(value={"messages": messages}, source=conversation.source)
