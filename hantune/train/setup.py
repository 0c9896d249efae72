"""What a run needs before its first step: checked data, template, tokens. Nothing here changes with training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hantune.config.schema import RunConfig
from hantune.errors import ConfigError, DataError
from hantune.log import console
from hantune.paths import RunFolder, write_json

if TYPE_CHECKING:
    from hantune.data.check import CheckReport
    from hantune.data.prepared import Prepared
    from hantune.data.store import TokenStore
    from hantune.data.templates.base import Template
    from hantune.data.tokens import Encoder


MATERIAL_WORDS = {"model": "底座模型", "data": "数据", "tokenizer": "分词器", "template": "提示模板"}
MAY_CHANGE = (
    "train.batch_size", "train.accumulation_steps", "train.batch_tokens", "train.threads", "train.device",
    "train.activation_checkpointing", "train.memory_check", "train.save_every_steps", "train.keep_checkpoints",
    "eval.every_steps", "log.every_steps", "log.trackers",
)  # fmt: skip
"""Settings that may differ when a run goes on: it learns from the same samples, each once an epoch, all the same."""
PLACES = ("model.path", "model.tokenizer", "data.path")
"""Where things lie. What lies there must be the same, and is compared by its fingerprint."""
SHOWN = 48
"""Characters of a value that a list of changes shows."""


@dataclass(frozen=True, kw_only=True)
class Material:
    """The data of a run, as tokens, with everything that turned it into tokens. ``base``: the model's fingerprint."""

    base: str
    prepared: Prepared
    tokenizer: Any
    encoder: Encoder
    template: Template
    train: TokenStore
    val: TokenStore
    check: CheckReport


def open_material(config: RunConfig, run: RunFolder) -> Material:
    """Prepare (a raw file), check the mask, tokenise.

    Raises: RefusedError ``mask.*`` or ``template.*`` (promise 1: a wrong mask does not start), DataError
        ``data.nothing-usable``, ``data.nothing-left``, ConfigError, ModelError.
    """
    from hantune.data.glance import check_prepared
    from hantune.data.store import open_tokens
    from hantune.data.templates import get_template
    from hantune.data.tokens import Encoder
    from hantune.models.fingerprint import fingerprint
    from hantune.models.folder import require_model
    from hantune.models.hub import local_folder
    from hantune.models.load import chat_template, load_tokenizer, model_type

    folder = local_folder(config.model.path, revision=config.model.revision)
    require_model(folder)
    tokenizer = load_tokenizer(config.model.tokenizer or folder)
    prepared = open_or_prepare(config, run)
    encoder = Encoder(tokenizer)
    own_template = chat_template(tokenizer)
    template = get_template(
        config.template.name,
        chat_template=own_template,
        model_type=model_type(folder),
        system=config.template.system,
        marks=encoder.marks,
    )
    check = check_prepared(
        prepared,
        encoder,
        template,
        max_tokens=config.data.max_tokens,
        max_turns=config.data.max_turns,
        chat_template=own_template,
        is_explicit=config.template.name != "auto",
    )
    for finding in check.warnings:
        console.warn(finding)
    settings: dict[str, Any] = {
        "max_tokens": config.data.max_tokens,
        "max_turns": config.data.max_turns,
        "seed": config.train.seed,
    }
    train = open_tokens(prepared, "train", encoder, template, max_samples=config.data.max_samples, **settings)
    num_val = config.eval.max_samples or automatic_num_val(len(train), config.train.epochs)
    val = open_tokens(prepared, "val", encoder, template, max_samples=num_val, **settings)
    if len(train) == 0:
        raise _nothing_left(config, prepared.count("train"))
    return Material(
        base=fingerprint(folder),
        prepared=prepared,
        tokenizer=tokenizer,
        encoder=encoder,
        template=template,
        train=train,
        val=val,
        check=check,
    )


def automatic_num_val(num_train: int, epochs: float) -> int:
    """Held-out samples for one evaluation: a fiftieth of what is trained, from 32 to 200.

    A run evaluates about six times, forward only, so this stays near a tenth of its time.
    """
    return int(min(200, max(32, num_train * epochs / 50)))


def _nothing_left(config: RunConfig, count: int) -> DataError:
    if count == 0:
        message, place = "整理好的数据里没有训练用的对话, 全部留作验证了", "data.path"
        hint = "加对话, 或者重新整理时少留一些: hantune data prepare ... --val-share 0.05"
    else:
        message = f"抽到的样本没有一条放得进 {config.data.max_tokens} 个词元"
        place, hint = "data.max_tokens", "调大 data.max_tokens 或 data.max_samples"
    return DataError("data.nothing-left", message, place=place, hint=hint)


def open_or_prepare(config: RunConfig, run: RunFolder) -> Prepared:
    """The PREPARED folder of ``data.path``; a raw file is prepared into ``RUN/prepared`` first.

    A run that has begun keeps what it prepared; what an attempt before it left behind is prepared anew if it differs.
    """
    from hantune.data.prepare import prepare
    from hantune.data.prepared import is_prepared, open_prepared

    path = Path(config.data.path).expanduser()
    if is_prepared(path):
        return open_prepared(path)
    if not (run.is_run and is_prepared(run.prepared)):
        prepare(
            [str(path)],
            run.prepared,
            format=config.data.format,
            val_share=config.data.val_share,
            seed=config.train.seed,
            replace=True,
            keep_map=False,
        )
    return open_prepared(run.prepared)


def write_mask_sample(material: Material, run: RunFolder) -> None:
    """``mask_sample.json``: the first training sample with its mask, for the report."""
    from hantune.data.show import mask_view

    pieces = mask_view(material.train[0], material.encoder)
    tokens = [{"text": piece.text, "learn": piece.learn} for piece in pieces]
    write_json(run.root / "mask_sample.json", {"source": material.train[0].source, "tokens": tokens})


Changes = dict[str, tuple[Any, Any]]
"""Name of a setting, or of a part of the material -> its value when the run began, and now."""


def changed_settings(config: RunConfig, recorded: Mapping[str, Any], run: RunFolder) -> Changes:
    """The settings that differ from those a run began with, all of them such that may.

    Raises: ConfigError ``run.changed`` with every one that may not.
    """
    from hantune.data.prepared import is_prepared

    changes = differences(settings_of(config), recorded)
    # Of a raw file the run has its own copy, made when it began: what lies elsewhere now would not be looked at.
    places = PLACES if is_prepared(Path(config.data.path)) else PLACES[:-1]
    _refuse({name: change for name, change in changes.items() if name not in (*MAY_CHANGE, *places)}, run)
    return changes


def check_same_material(material: Material, recorded: Mapping[str, Any], run: RunFolder) -> None:
    """Refuse to resume on other data, another base, tokenizer or template than the run began with.

    Raises: ConfigError ``run.changed``.
    """
    _refuse(differences(fingerprints(material), recorded), run)


def differences(found: Mapping[str, Any], recorded: Mapping[str, Any]) -> Changes:
    """What both have and is not the same."""
    return {name: (recorded[name], value) for name, value in found.items() if recorded.get(name, value) != value}


def _refuse(changes: Changes, run: RunFolder) -> None:
    if changes:
        lines = [f"      {MATERIAL_WORDS.get(name, name)}  {told(change)}" for name, change in changes.items()]
        raise ConfigError(
            "run.changed",
            "\n".join(["和开始训练时不一样了, 接着练就不再是同一次运行:", *lines]),
            place=str(run.root),
            hint=f"恢复原来的再接着练 (能改的只有 {', '.join(MAY_CHANGE)}), 或用 hantune train 开始一次新的运行",
        )


def told(change: tuple[Any, Any]) -> str:
    """``old -> new``; of long texts the part from where they differ."""
    old, new = ("空" if value in (None, "None") else str(value) for value in change)
    same = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
    start = max(0, same - SHOWN // 2) if max(len(old), len(new)) > SHOWN else 0
    return " -> ".join(_shown(text, start) for text in (old, new))


def _shown(text: str, start: int) -> str:
    part = text[start : start + SHOWN].replace("\n", "\\n")
    return ("..." if start else "") + part + ("..." if len(text) > start + SHOWN else "")


def settings_of(config: RunConfig) -> dict[str, Any]:
    """Every setting by its dotted name, as a number or text."""
    return {
        f"{section}.{key}": value if isinstance(value, (int, float, str)) else str(value)
        for section, values in config.model_dump().items()
        for key, value in values.items()
    }


def fingerprints(material: Material) -> dict[str, str]:
    """What identifies base, data, tokenizer and template."""
    return {
        "model": material.base,
        "data": material.prepared.fingerprint,
        "tokenizer": material.encoder.fingerprint,
        "template": material.template.text,
    }
