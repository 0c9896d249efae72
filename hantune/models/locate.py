"""From what a user names (model, adapter or run folder, hub id) to base, adapter, tokenizer and template."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hantune.data.templates.base import Marks, Template
from hantune.errors import ModelError, NetworkError, RunError
from hantune.log import console
from hantune.models.adapter import CONFIG, require_adapter
from hantune.models.fingerprint import fingerprint
from hantune.models.folder import read_config, require_model
from hantune.models.headers import weight_files
from hantune.models.hub import is_hub_id, local_folder
from hantune.models.quantize import Quantization, recorded
from hantune.models.record import read_record, stored_template
from hantune.models.tokenizer import has_tokenizer, read_chat_template, read_specials
from hantune.paths import RunFolder, quoted


@dataclass(frozen=True, kw_only=True)
class Located:
    """Everything needed to talk to a model. ``base`` and ``tokenizer_path`` are folders that exist.

    ``load``: how to hold the base for the adapter: ``full``, ``8bit`` or ``4bit``; ``quantization``: what it was
    rounded to while the adapter was trained.
    """

    base: str
    adapter: Path | None
    template: Template
    tokenizer_path: str
    run: Path | None
    load: str = "full"
    quantization: Quantization | None = None


def locate(path: str | Path, *, adapter: str | Path | None = None, base: str | Path | None = None) -> Located:
    """What ``path`` stands for: MODEL folder, ADAPTER folder, RUN folder (its adapter/ or model/) or hub id.

    ``adapter``: an adapter to put on the model ``path``. ``base``: the base to use for the adapter ``path``.

    Raises: ModelError ``model.*``, ``adapter.wrong-base``, ``adapter.base-not-found``, ``adapter.untrained`` ...;
        RunError ``run.no-result``; NetworkError ``hub.unreachable``.
    """
    folder = local_folder(path)
    run = RunFolder(folder) if is_run(folder) else None
    if run is not None:
        folder = _result_of(run)
    if adapter is not None:
        base, folder = base or folder, _adapter_folder(local_folder(adapter))
    if is_adapter(folder):
        return _locate_adapter(folder, base, run)
    if adapter is not None:
        require_adapter(folder)
    require_model(folder)
    record = read_record(folder)
    template = stored_template(record) if record else _own_template(folder, folder)
    return Located(
        base=str(folder), adapter=None, template=template, tokenizer_path=str(folder), run=run.root if run else None
    )


def is_run(folder: Path) -> bool:
    """Whether ``folder`` is a RUN: it was started, or holds a result under the names of a run."""
    run = RunFolder(folder)
    return run.is_run or (not weight_files(folder) and (is_adapter(run.adapter) or bool(run.model.is_dir())))


def is_adapter(folder: Path) -> bool:
    """Whether ``folder`` is an adapter and not a whole model that keeps an adapter's config beside it."""
    return (folder / CONFIG).is_file() and not weight_files(folder)


def _result_of(run: RunFolder) -> Path:
    """The adapter or model that a run ended with."""
    for folder in (run.adapter, run.model):
        if folder.is_dir():
            return folder
    raise RunError(
        "run.no-result",
        "这次训练还没有结果: 没有 adapter/ 也没有 model/",
        place=str(run.root),
        hint=f"接着练完: hantune resume {quoted(run.root)}",
    )


def _adapter_folder(folder: Path) -> Path:
    """An adapter folder named directly or through its run."""
    return RunFolder(folder).adapter if not is_adapter(folder) and is_adapter(folder / "adapter") else folder


def _locate_adapter(folder: Path, base: str | Path | None, run: RunFolder | None) -> Located:
    """The adapter with the base it was trained on."""
    require_adapter(folder)
    record = read_record(folder)
    quantization = recorded(record, str(folder))
    found = _find_base(folder, base, record)
    if record is None:
        console.warn(f"{folder} 里没有 hantune.json: 无法核对它是不是这个底座的适配器, 模板按底座选")
    return Located(
        base=str(found),
        adapter=folder,
        template=stored_template(record) if record else _own_template(found, folder),
        tokenizer_path=str(folder if has_tokenizer(folder) else found),
        run=run.root if run else _run_of(folder),
        load=quantization.load if quantization else "full",
        quantization=quantization,
    )


def _run_of(folder: Path) -> Path | None:
    """The run folder that an adapter lies in."""
    return folder.parent if RunFolder(folder.parent).is_run else None


def _own_template(model: Path, first: Path) -> Template:
    """The template chosen by a model's chat template and family (``first`` is looked into before the model)."""
    from hantune.data.templates import get_template

    chat_template = read_chat_template(first) or read_chat_template(model)
    return get_template(
        "auto",
        chat_template=chat_template,
        model_type=str(read_config(model)["model_type"]),
        marks=Marks(specials=() if chat_template else read_specials(first if has_tokenizer(first) else model)),
    )


def _find_base(folder: Path, base: str | Path | None, record: Mapping[str, Any] | None) -> Path:
    """The first candidate whose fingerprint is the recorded one."""
    wanted = ((record or {}).get("base") or {}).get("fingerprint")
    strangers: list[Path] = []
    offline: NetworkError | None = None
    for candidate, revision in [(str(base), None)] if base else _candidates(folder, record):
        try:
            found = local_folder(candidate, revision=revision)
            require_model(found)
        except NetworkError as error:
            offline = error
            continue
        except ModelError:
            if base:
                raise
            continue
        if wanted is None or fingerprint(found) == wanted:
            return found
        strangers.append(found)
    raise _wrong_base(folder, strangers, record) if strangers else offline or _base_not_found(folder, record)


def _candidates(folder: Path, record: Mapping[str, Any] | None) -> Iterator[tuple[str, str | None]]:
    """(path or hub id, revision) where the base may be: recorded hub id, the run's config, the recorded way to it."""
    entry = (record or {}).get("base") or {}
    if entry.get("id"):
        yield entry["id"], entry.get("revision")
    for path in _named_by_run(folder):
        yield path, None
    if entry.get("hint"):
        yield str((folder / entry["hint"]).resolve()), None
    named = _named_by_peft(folder)
    if named and (Path(named).is_dir() or is_hub_id(named)):
        yield named, None


def _named_by_run(folder: Path) -> Iterator[str]:
    """``model.path`` of the run's config next door, as it stands and as seen from the run folder."""
    config = RunFolder(folder.resolve().parent).config
    if not config.is_file():
        return
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        named = YAML(typ="safe").load(config.read_text(encoding="utf-8"))["model"]["path"]
    except (YAMLError, KeyError, TypeError, ValueError):
        return
    if isinstance(named, str) and named:
        yield named
        if not Path(named).is_absolute():
            yield str(config.parent / named)


def _named_by_peft(folder: Path) -> str | None:
    """What PEFT wrote down as the base: a hub id, or a path of the machine it was trained on."""
    import json

    named = json.loads((folder / CONFIG).read_bytes()).get("base_model_name_or_path")
    return named if isinstance(named, str) and named else None


def _name_of(record: Mapping[str, Any] | None) -> str:
    entry = (record or {}).get("base") or {}
    return entry.get("id") or entry.get("name") or "名字没有记下"


def _wrong_base(folder: Path, strangers: list[Path], record: Mapping[str, Any] | None) -> ModelError:
    wanted = str(((record or {}).get("base") or {}).get("fingerprint"))
    return ModelError(
        "adapter.wrong-base",
        f"底座不对: 适配器是在 {_name_of(record)} (指纹 {wanted[:16]}) 上训练的, "
        f"{strangers[0]} 的指纹是 {fingerprint(strangers[0])[:16]}",
        place=str(folder),
        hint="用训练时的那个底座: --base 底座文件夹",
    )


def _base_not_found(folder: Path, record: Mapping[str, Any] | None) -> ModelError:
    return ModelError(
        "adapter.base-not-found",
        f"找不到适配器的底座模型 ({_name_of(record)})",
        place=str(folder),
        hint="告诉它底座在哪里: --base 底座文件夹",
    )
