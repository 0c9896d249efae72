"""What a run needs before its first step: checked data, template, tokens. Nothing here changes with training."""

from __future__ import annotations

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


def check_same_material(
    material: Material, config: RunConfig, expected: dict[str, Any], run: RunFolder
) -> None:
    """Refuse to resume on other data, another base, template or setting than the run began with.

    Raises: ConfigError ``run.changed``.
    """
    found = fingerprints(material, config)
    changed = [MATERIAL_WORDS.get(name, name) for name, value in expected.items() if found.get(name) != value]
    if changed:
        raise ConfigError(
            "run.changed",
            f"和开始训练时不一样了: {', '.join(changed)}; 接着练就不再是同一次运行",
            place=str(run.root),
            hint="恢复原来的数据, 模型和 config.yaml, 或用 hantune train 开始一次新的运行",
        )


def settings_of(config: RunConfig) -> dict[str, Any]:
    """Every setting by its dotted name, as a number or text."""
    return {
        f"{section}.{key}": value if isinstance(value, (int, float, str)) else str(value)
        for section, values in config.model_dump().items()
        for key, value in values.items()
    }


def fingerprints(material: Material, config: RunConfig) -> dict[str, Any]:
    """What identifies base, data, tokenizer and template, and the settings."""
    return {
        **settings_of(config),
        "model": material.base,
        "data": material.prepared.fingerprint,
        "tokenizer": material.encoder.fingerprint,
        "template": material.template.text,
    }
