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


@dataclass(frozen=True, kw_only=True)
class Material:
    """The data of a run, as tokens, with everything that turned it into tokens."""

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
        ``data.nothing-usable``, ConfigError, ModelError.
    """
    from hantune.data.check import check_data
    from hantune.data.store import open_tokens
    from hantune.data.templates import get_template
    from hantune.data.tokens import Encoder
    from hantune.models.load import chat_template, load_tokenizer, model_type

    prepared = open_or_prepare(config, run)
    tokenizer = load_tokenizer(config.model.tokenizer or config.model.path)
    encoder = Encoder(tokenizer)
    own_template = chat_template(tokenizer)
    template = get_template(
        config.template.name,
        chat_template=own_template,
        model_type=model_type(config.model.path),
        system=config.template.system,
        marks=encoder.marks,
    )
    check = check_data(
        prepared.conversations("train"),
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
    val = open_tokens(prepared, "val", encoder, template, max_samples=config.eval.max_samples, **settings)
    if len(train) == 0:
        raise DataError(
            "data.nothing-left",
            f"没有一条样本放得进 {config.data.max_tokens} 个词元",
            place="data.max_tokens",
            hint="调大 data.max_tokens",
        )
    return Material(
        prepared=prepared,
        tokenizer=tokenizer,
        encoder=encoder,
        template=template,
        train=train,
        val=val,
        check=check,
    )


def open_or_prepare(config: RunConfig, run: RunFolder) -> Prepared:
    """The PREPARED folder of ``data.path``; a raw file is prepared into ``RUN/prepared`` first."""
    from hantune.data.prepare import prepare
    from hantune.data.prepared import is_prepared, open_prepared

    path = Path(config.data.path).expanduser()
    if is_prepared(path):
        return open_prepared(path)
    if not is_prepared(run.prepared):
        prepare(
            [str(path)],
            run.prepared,
            format=config.data.format,
            val_share=config.data.val_share,
            seed=config.train.seed,
        )
    return open_prepared(run.prepared)


def write_mask_sample(material: Material, run: RunFolder) -> None:
    """``mask_sample.json``: the first training sample with its mask, for the report."""
    from hantune.data.show import mask_view

    pieces = mask_view(material.train[0], material.encoder)
    tokens = [{"text": piece.text, "learn": piece.learn} for piece in pieces]
    write_json(run.root / "mask_sample.json", {"source": material.train[0].source, "tokens": tokens})


def check_same_material(material: Material, expected: dict[str, Any], run: RunFolder) -> None:
    """Refuse to resume on other data or another template than the run began with.

    Raises: ConfigError ``run.changed``.
    """
    found = fingerprints(material)
    changed = [name for name, value in expected.items() if found.get(name) != value]
    if changed:
        raise ConfigError(
            "run.changed",
            f"和开始训练时不一样了: {', '.join(changed)}; 接着练就不再是同一次运行",
            place=str(run.root),
            hint="恢复原来的数据和模型, 或用 hantune train 开始一次新的运行",
        )


def fingerprints(material: Material) -> dict[str, str]:
    """What identifies data, tokenizer and template."""
    return {
        "data": material.prepared.fingerprint,
        "tokenizer": material.encoder.fingerprint,
        "template": material.template.text,
    }
