"""``hantune data prepare``: raw files to a PREPARED folder, whole or not at all, each record accounted for."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from hantune import __version__
from hantune.data.blocks import WHOLE, Block, absorb_all, take_all
from hantune.data.card import REASONS, card
from hantune.data.clean.pipeline import Pipeline, chosen_rules
from hantune.data.clean.pseudonyms import Mode, map_path, write_map
from hantune.data.dedup import Dedup
from hantune.data.encoding import NAMES
from hantune.data.formats import get_format
from hantune.data.formats.logs import LOGS
from hantune.data.intake import OWN_WISH, Intake, Tally
from hantune.data.pool import cores
from hantune.data.prepared import Prepared, fingerprint_of, is_prepared, open_prepared
from hantune.data.shards import is_shard, open_shards, parse_shard, read_shards, tally_of, write_shard
from hantune.data.sketch import sketch
from hantune.data.sources import SourceFile, expand, inspect
from hantune.data.turns import Yield
from hantune.errors import ConfigError, DataError, RunError
from hantune.log import console
from hantune.paths import RunFolder, new_folder, write_file, write_json

LAYOUT = 1
"""Counts up when the folder's files change their meaning."""
QUIET_REASONS = frozenset({"sampled-out", "source.test-part", "source.val-part", "source.train-part"})
"""Reasons that are the user's own wish."""


def prepare(
    sources: Sequence[str],
    out: Path,
    *,
    format: str | None = None,
    max_samples: int | None = None,
    max_turns: int | None = None,
    val_share: float = 0.05,
    val: Sequence[str] = (),
    seed: int = 42,
    me: Sequence[str] = (),
    pii: Mode | None = None,
    dedup: Dedup = "off",
    clean: str | None = None,
    blocked: Path | None = None,
    strict: bool = False,
    replace: bool = False,
    keep_map: bool = True,
    workers: int | None = None,
    shard: str | None = None,
) -> dict[str, Any]:
    """The manifest of ``out``: {read, kept, dropped, train, val, sources, flags, versions, key, fingerprint}; and of
    {clean, pii, duplicates} what was asked for.

    ``me``: id or names of the user in chat logs. ``pii`` None masks private values in chat logs only; their map goes
    beside ``out`` (``keep_map``). ``clean``: names of rules. ``blocked``: a file of words that none may hold.

    ``read``, ``kept`` and ``dropped`` count records, and kept + dropped = read; ``train`` and ``val`` count
    conversations (a record with several questions gives several). The same sources and flags give the same bytes, and
    where ``out`` already holds them nothing is done.

    Raises: DataError ``source.*``, ``format.unknown-fields``, ``data.nothing-usable``, with ``strict`` the code of the
        first reject; ConfigError ``format.unknown-name``, ``clean.*``; RunError ``run.exists``,
        ``run.in-use``; MachineError.
    """
    shards = [Path(given).expanduser() for given in sources]
    if all(map(is_shard, shards)):
        return _merge(shards, out, replace)
    own = parse_shard(shard) if shard else WHOLE
    if format and format not in LOGS:
        get_format(format)
    rules, words = chosen_rules(clean), blocked_words(blocked)
    files = [(inspect(place), False) for given in sources for place in expand(given)]
    files += [(inspect(place), True) for given in val for place in expand(given)]
    flags = {"format": format, "max_samples": max_samples, "max_turns": max_turns, "val_share": val_share, "seed": seed,
             "strict": strict, "pii": pii, "dedup": dedup, "clean": list(rules)}  # fmt: skip
    key = content_key(files, {**flags, "blocked": words, "me": list(me)}, _versions(rules, dedup))
    done = _already(out, key, replace)
    if done:
        return done.manifest
    with _alone(out), new_folder(out, replace=True) as folder:
        intake = Intake(folder, seed, max_turns, strict, Pipeline(rules, pii, words), me, dedup)
        blocks = take_all(intake, files, format, has_val=bool(val), workers=workers or cores(), shard=own)
        flags |= {"blocked": len(words), "me": len(me)}  # how many: what they are is private
        if shard is not None:
            return write_shard(intake, own, blocks, {"flags": flags, "key": key, "versions": _versions(rules, dedup)})
        manifest = _finish(intake, blocks, flags, key, [file for file, _ in files])
        _keep_map(map_path(out) if keep_map else None, intake.pipeline, key)
    _warn(manifest, has_val=bool(val))
    return manifest


def _finish(
    intake: Intake, blocks: Iterable[Block], flags: dict[str, Any], key: str, files: Sequence[SourceFile] = ()
) -> dict[str, Any]:
    """From the blocks to the whole folder; returns the manifest.

    Raises: DataError ``data.nothing-usable``.
    """
    absorb_all(intake, blocks, files)
    if not intake.draws:
        names = [tally.source.name for tally in intake.tallies]
        logs = [tally.log for tally in intake.tallies if tally.log]
        raise nothing_usable(names, intake.read, intake.dropped, intake.first_places, logs)
    held_out = [tally.source.name for tally in intake.tallies if tally.is_val]
    rows = intake.write_parts(*intake.decide(0.0 if held_out else flags["val_share"], flags["max_samples"]))
    identity = {"flags": {**flags, "val": held_out}, "key": key, "fingerprint": fingerprint_of(intake.folder)}
    versions = _versions(intake.pipeline.rules, intake.dedup)
    manifest = {**_accounts(intake), **rows, **identity, "versions": versions}
    write_json(intake.folder / "manifest.json", manifest)
    write_file(intake.folder / "card.md", card(manifest, sketch(intake.folder)))
    return manifest


def _merge(shards: Sequence[Path], out: Path, replace: bool) -> dict[str, Any]:
    """The PREPARED folder of all shards together: what one run would have written.

    Raises: DataError ``shard.mixed``, ``shard.incomplete``.
    """
    record = open_shards(shards)
    flags, key = record["flags"], record["key"]
    done = _already(out, key, replace)
    if done:
        return done.manifest
    with _alone(out), new_folder(out, replace=True) as folder:
        pipeline = Pipeline(tuple(flags["clean"]), flags["pii"])
        intake = Intake(folder, flags["seed"], flags["max_turns"], flags["strict"], pipeline, (), flags["dedup"])
        intake.tallies += [tally_of(each) for each in record["sources"]]
        manifest = _finish(intake, read_shards(shards), flags, key)
    _warn(manifest, has_val=bool(manifest["flags"]["val"]))
    return manifest


def content_key(files: Sequence[tuple[SourceFile, bool]], flags: dict[str, Any], versions: dict[str, Any]) -> str:
    """What the output depends on, as one sha256: bytes and names of the sources, flags, versions."""
    facts = [[file.name, file.sha256, is_val, file.part, repr(file.layout)] for file, is_val in files]
    return hashlib.sha256(json.dumps([facts, flags, versions], sort_keys=True).encode()).hexdigest()


def blocked_words(path: Path | None) -> list[str]:
    """The words of a file, one a line; empty lines and lines that begin with ``#`` are none.

    Raises: ConfigError ``clean.no-words``.
    """
    if path is None:
        return []
    try:
        lines = [line.strip() for line in path.expanduser().read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError):
        lines = []
    words = sorted({line for line in lines if line and not line.startswith("#")})
    if not words:
        raise ConfigError(
            "clean.no-words",
            "这里没有屏蔽词 (要一个 UTF-8 文本文件, 一行一个词)",
            place=str(path),
            hint=f"检查文件: cat {path}",
        )
    return words


def _keep_map(path: Path | None, pipeline: Pipeline, key: str) -> None:
    """Write the way back from the stand-ins beside the folder, never into it; nowhere inside a run."""
    if not pipeline.has_masked or not pipeline.masker.stand_ins:
        return
    if path is None:
        console.say("隐私内容换成了代号; 这里是运行文件夹, 不留对照表")
        return
    write_map(path, pipeline.masker, key)
    console.say(f"隐私内容换成了代号, 对照表在 {path} (只有自己能读, 不要和数据放在一起)")


def _duplicates(intake: Intake) -> dict[str, Any]:
    """How many conversations were left out as duplicates, with some pairs (all of them are in ``rejects.jsonl``)."""
    if intake.dedup == "off":
        return {}
    found = intake.duplicates
    counts = {"exact": found["dedup.exact"], "near": found["dedup.near"]}
    return {"duplicates": {"mode": intake.dedup, **counts, "pairs": intake.some_pairs}}


def _already(out: Path, key: str, replace: bool) -> Prepared | None:
    """What lies in ``out`` if it is just what is asked for.

    Raises: RunError ``run.exists`` when something else lies there.
    """
    if not out.exists() or (out.is_dir() and {path.name for path in out.iterdir()} <= {".lock"}):
        return None
    if not is_prepared(out):
        raise RunError(
            "run.exists",
            "输出文件夹里有别的东西, 不会覆盖" if out.is_dir() else "这个名字已经是一个文件",
            place=str(out),
            hint="换一个 --out (--replace 只替换 hantune data prepare 自己写的文件夹)",
        )
    prepared = open_prepared(out)
    if prepared.manifest.get("key") == key:
        console.say(f"已经整理过: {out} 就是用同样的文件和同样的选项整理的, 直接使用")
        return prepared
    if not replace:
        raise RunError(
            "run.exists",
            "这里有用别的文件或别的选项整理好的数据, 不会覆盖",
            place=str(out),
            hint="换一个 --out, 或加上 --replace 替换它",
        )
    return None


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Keep a second process from preparing the same folder; leaves nothing behind."""
    try:
        with RunFolder(out).lock():
            yield
    finally:
        with contextlib.suppress(OSError):
            (out / ".lock").unlink()
            out.rmdir()


def _accounts(intake: Intake) -> dict[str, Any]:
    """What was read, kept and dropped, in all and by source; what was done to texts."""
    return {
        "read": intake.read,
        "kept": sum(tally.kept for tally in intake.tallies),
        "dropped": dict(sorted(intake.dropped.items())),
        "first_places": dict(sorted(intake.first_places.items())),
        "sources": [_source_entry(tally) for tally in intake.tallies],
        **intake.pipeline.report(),
        **_duplicates(intake),
    }


def _versions(rules: Sequence[str], dedup: Dedup) -> dict[str, Any]:
    """What else decides about the bytes: the programs that are used, and ``LAYOUT``."""
    used = ["pyarrow"] + (["rensa"] if dedup == "near" else []) + (["opencc"] if "simplified" in rules else [])
    with contextlib.suppress(PackageNotFoundError):  # opencc is an extra: its rule says so itself
        return {"hantune": __version__, **{name: version(name) for name in used}, "layout": LAYOUT}
    return {"hantune": __version__, "layout": LAYOUT}


def _source_entry(tally: Tally) -> dict[str, Any]:
    """One source in the manifest."""
    source = tally.source
    return {
        "path": source.name,
        "sha256": source.sha256,
        "format": tally.format,
        "why": tally.why,
        "container": source.container,
        "encoding": NAMES.get(source.encoding, source.encoding),
        "has_val": tally.has_val,
        "part": "val" if tally.is_val else "train",
        "read": tally.read,
        "kept": tally.kept,
        **({"log": tally.log.as_dict()} if tally.log else {}),
    }


def nothing_usable(
    names: Sequence[str],
    read: int,
    dropped: Mapping[str, int],
    first_places: Mapping[str, str],
    logs: Sequence[Yield] = (),
) -> DataError:
    """The error for sources without one usable record: the three commonest reasons and where each came first; of chat
    logs what became of their messages."""
    if not read:
        return DataError(
            "data.nothing-usable",
            "文件里没有一条记录",
            place=", ".join(names),
            hint="检查文件内容; 格式见 docs/reference/formats.md",
        )
    common = Counter(dropped).most_common(3)
    if len(logs) == len(names) and any(log.lost() for log in logs):
        whys = "\n".join(log.why_nothing() for log in logs)
        hint = "先看 --me 说对了人没有; 怎样配对见 docs/reference/chatlogs.md"
        return DataError("data.nothing-usable", f"没有一段能用的对话: {whys}", place=", ".join(names), hint=hint)
    reasons = "; ".join(
        f"{REASONS.get(reason, '')} ({reason}) {count} 条, 第一处 {first_places[reason]}" for reason, count in common
    )
    return DataError(
        "data.nothing-usable",
        f"没有一条能用的对话: 读了 {read} 条, 全部去掉. {reasons}",
        place=first_places[common[0][0]],
        hint=f"改法见 docs/troubleshooting/{common[0][0]}.md, 改好后再运行同一条命令",
    )


def _warn(manifest: dict[str, Any], has_val: bool) -> None:
    """Say aloud what a careful user would want to know before training."""
    dropped = manifest["dropped"]
    if count := dropped.get("split.in-val"):
        console.warn(f"训练数据里有 {count} 条和验证数据相同, 已从训练里去掉 (rejects.jsonl: split.in-val)")
    if count := dropped.get("split.near-val"):
        console.warn(f"训练数据里有 {count} 条和验证数据很像, 已从训练里去掉 (rejects.jsonl: split.near-val)")
    if count := dropped.get("source.test-part"):
        console.say(f"文件里的 test 部分 ({count} 条) 没有使用")
    if count := dropped.get("source.val-part"):
        console.say(f"指定了 --val, 所以文件自带的验证部分 ({count} 条) 没有使用")
    if not manifest["val"] and (manifest["flags"]["val_share"] or has_val):
        why = "--val 里没有能用的对话" if has_val else f"只有 {manifest['train']} 段对话"
        console.warn(f"{why}, 没有验证数据: 训练时看不到验证损失")
    if not manifest["train"]:
        console.warn("没有训练数据, 全部留作验证")
    broken = sum(n for reason, n in dropped.items() if reason not in QUIET_REASONS and not reason.startswith(OWN_WISH))
    if broken > manifest["read"] / 2:
        console.warn(f"一半以上的记录 ({broken}/{manifest['read']}) 不能用, 请看 rejects.jsonl")
