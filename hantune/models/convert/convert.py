"""``hantune model convert``: Meta's layout, or a folder of pickles, as a Hugging Face folder of safetensors.

One tensor is in memory at a time. The folder gets its name when every file of a ``checklist.chk`` has its md5 and the
result has passed ``model check``; a killed conversion goes on after its last whole file.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hantune.errors import ConfigError, ModelError
from hantune.log import console
from hantune.models.check import check_model
from hantune.models.convert.bins import BinModel
from hantune.models.convert.checklist import Checklist, read_checklists
from hantune.models.convert.meta import PARAMS, MetaModel, shard_missing
from hantune.models.convert.meta_tokenizer import find_tokenizer, write_tokenizer
from hantune.models.convert.unfinished import Unfinished, unfinished_folder, unfinished_path
from hantune.models.folder import PAPERS, copy_beside
from hantune.models.headers import weight_files
from hantune.models.hub import local_folder
from hantune.models.record import FILE, FORMAT, template_entry, versions
from hantune.models.room import require_room
from hantune.models.shards import SHARD_BYTES, write_tensors
from hantune.paths import quoted, write_json

LAYOUT = 1
"""Counts up when the same source comes to other bytes: an unfinished folder of an older hantune is not gone on with."""


def convert(
    source: str | Path, out: Path, *, chat: bool = False, vocab_size: int | None = None, shard_bytes: int = SHARD_BYTES
) -> dict[str, Any]:
    """Write the model in ``source`` to ``out``; returns what it was, counts, bytes, the check's findings and seconds.

    ``chat``: it is a chat model (Meta's files do not say so): the template of its generation goes with it.
    ``vocab_size``: what the vocabulary must have, instead of what ``params.json`` says.

    Raises: ModelError ``model.*``; ConfigError ``convert.only-meta``; RunError ``run.exists``, ``run.in-use``;
        MachineError ``machine.no-room``, ``machine.disk-full``.
    """
    start = time.monotonic()
    folder = local_folder(source)
    wanted: dict[Path, str] = {}
    if is_meta(folder):
        tokenizer = find_tokenizer(folder)
        wanted = read_checklists([folder, tokenizer.parent])
        _require_listed(folder, wanted)
        model: MetaModel | BinModel = MetaModel(folder, vocab_size=vocab_size)
    else:
        _require_bins(folder, chat or vocab_size is not None)
        model = BinModel(folder)
    try:
        plan = _plan(model, chat, shard_bytes)
        with unfinished_folder(out, plan) as work, Checklist(wanted) as checklist:
            kept = work.kept
            require_room(sum(spec.num_bytes for spec in model.specs.values()) - kept, unfinished_path(out))
            template = None
            if isinstance(model, MetaModel):
                model.watch(checklist.feed, checklist.wanted)
                template = _write_meta_rest(model, tokenizer, work.path, chat)
            else:
                model.dress(work.path)
            files = _write_weights(model, work, shard_bytes)
            checklist.require()
            found = check_model(work.path)
    finally:
        model.close()
    return {
        "folder": str(out), "from": model.kind, "sources": len(model.sources), "files": files, "kept_bytes": kept,
        "tensors": len(model.specs), "template": template, "md5_checked": [path.name for path in checklist.wanted],
        "seconds": round(time.monotonic() - start, 2),
    } | {key: found[key] for key in ("parameters", "layers", "bytes", "dtype", "vocab_rows", "findings")}  # fmt: skip


def is_meta(folder: Path) -> bool:
    """Whether ``folder`` is of Meta's layout. (``params.json`` alone also lies in folders of Mistral's models.)"""
    others = weight_files(folder) or any(folder.glob("pytorch_model*.bin*"))
    return any(folder.glob("consolidated.*.pth")) or ((folder / PARAMS).is_file() and not others)


def _require_bins(folder: Path, has_meta_options: bool) -> None:
    """Nothing, if ``folder`` holds pickles to convert."""
    if not any(folder.glob("pytorch_model*.bin*")):
        is_done = bool(weight_files(folder))
        raise ModelError(
            "convert.nothing",
            "这已经是 safetensors, 不用转换"
            if is_done
            else "没有可转换的权重 (consolidated.*.pth 或 pytorch_model*.bin)",
            place=str(folder),
            hint=f"hantune model check {quoted(folder)}",
        )
    if has_meta_options:
        raise ConfigError(
            "convert.only-meta",
            "--chat 和 --vocab-size 只用于 Meta 原版 (consolidated.*.pth); 这里是 Hugging Face 的文件夹, 照原样转换",
            place=str(folder),
            hint="去掉这两个选项",
        )


def _require_listed(folder: Path, wanted: dict[Path, str]) -> None:
    """Nothing, if every weight file that a checklist names is there."""
    missing = sorted(path.name for path in wanted if path.suffix == ".pth" and not path.exists())
    if missing:
        raise shard_missing(folder, f"checklist.chk 里有 {'、'.join(missing[:3])}, 文件夹里没有")


def _plan(model: MetaModel | BinModel, chat: bool, shard_bytes: int) -> str:
    """A hash of what is made from what: an unfinished folder with another is begun anew."""
    sources = [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in (*model.sources, *_small(model.folder))]
    what = [LAYOUT, sources, [(name, *spec) for name, spec in model.specs.items()], chat, shard_bytes]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()


def _small(folder: Path) -> list[Path]:
    return [path for path in (folder / PARAMS, folder / "config.json") if path.is_file()]


def _write_weights(model: MetaModel | BinModel, work: Unfinished, shard_bytes: int) -> int:
    """The number of weight files, all of them whole."""
    total = sum(spec.num_bytes for spec in model.specs.values())
    if work.kept:
        console.say(f"接着上次做: 已有 {work.kept / 1e9:.1f} GB, 逐字节核对后留用")

    with console.progress("转换权重", total >> 20, unit="MB") as bar:
        files = write_tensors(
            work.path,
            model.specs,
            model.tensor_of,
            shard_bytes=shard_bytes,
            advance=_in_megabytes(bar),
            write=work.write,
        )
    work.settle()
    return len(files)


def _in_megabytes(bar: Any) -> Callable[[int], None]:
    """Advances a bar of MB by bytes, without losing the rest of each."""
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        bar.advance((done >> 20) - bar.done)

    return advance


def _write_meta_rest(model: MetaModel, tokenizer: Path, out: Path, chat: bool) -> str | None:
    """Tokenizer, config, generation config, chat template and licence; the name of the template."""
    marks = write_tokenizer(tokenizer, out, context=model.context, is_chat=chat, is_late=model.is_late)
    if marks.num_ids > model.vocab_size:
        raise ModelError(
            "model.vocab-too-small",
            f"分词器有 {marks.num_ids} 个编号, 模型的词表只有 {model.vocab_size} 行: 不是同一个模型的",
            place=str(tokenizer),
            hint="换回和权重一起发布的 tokenizer.model",
        )
    ends: int | list[int] = marks.ends[0] if len(marks.ends) == 1 else list(marks.ends)
    ids: dict[str, Any] = {"bos_token_id": marks.bos, "eos_token_id": ends}
    if marks.pad is not None:
        ids["pad_token_id"] = marks.pad
    write_json(out / "config.json", model.config() | ids)
    write_json(out / "generation_config.json", ids)
    copy_beside(model.folder, out, PAPERS)
    if not chat:
        names = " ".join(model.folder.absolute().parts[-2:]).lower()  # Llama-3-8B-Instruct/original
        if "chat" in names or "instruct" in names:
            console.warn("文件夹名字像对话模型; 如果是, 加 --chat 再转换, 这样会带上对话模板")
        return None
    return _write_template(out, is_llama_3=marks.is_tiktoken)


def _write_template(out: Path, *, is_llama_3: bool) -> str:
    """The chat template in both places where tools look for it, and hantune's record of it; its name."""
    from hantune.data.templates import get_template

    template = get_template("llama3" if is_llama_3 else "llama2")
    path = out / "tokenizer_config.json"
    write_json(path, json.loads(path.read_bytes()) | {"chat_template": template.jinja})
    (out / "chat_template.jinja").write_bytes((template.jinja or "").encode())
    record = {"format": FORMAT, "template": template_entry(template), "base": None, "versions": versions()}
    write_json(out / FILE, record)
    return template.name
