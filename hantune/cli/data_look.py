"""``hantune data look``, ``stats`` and ``check``: what conversations are like. ``cli/data.py`` registers them."""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hantune.cli.data_me import asks_me
from hantune.cli.frame import Answer
from hantune.env import environment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hantune.data.check import CheckReport
    from hantune.data.dedup import Overlap
    from hantune.data.prepared import Prepared
    from hantune.data.raw import RawData
    from hantune.data.templates.base import Template
    from hantune.data.tokens import Encoder
    from hantune.data.types import Conversation

Model = Annotated[str | None, typer.Option("--model", help="模型文件夹或名字: 用它的分词器和模板")]
TemplateName = Annotated[str, typer.Option("--template", help="模板名; auto = 模型自带的或按家族选")]
Me = Annotated[
    list[str] | None,
    typer.Option("--me", metavar="NAME|ID", help="聊天记录里哪个是你 (号码或名字), 改过名可写多次: 你的话是要学的回答"),
]
SHOWN_MESSAGES, SHOWN_CHARACTERS, SHOWN_PIECES = 40, 2000, 2000
"""Of one conversation on a terminal: messages, characters of each, and with a model characters of all."""
Data = Annotated[str, typer.Argument(metavar="DIR|SRC", help="整理好的文件夹, 或原始数据文件")]


@asks_me
def look_command(
    data: Data,
    me: Me = None,
    model: Model = None,
    template: TemplateName = "auto",
    number: Annotated[int, typer.Option("--number", "-n", min=1, metavar="N", help="看几段")] = 3,
) -> Answer:
    """看几段对话; 加 --model 还看送给模型的文字和编号, 绿色是要学的, 灰色只看不学.

    例子:  hantune data look prepared --model m110 -n 5
    """
    from hantune.data.raw import RawData, open_data

    opened = open_data(data, me or ())
    raw = opened if isinstance(opened, RawData) else None
    conversations = _first(opened, number)
    notes = list(raw.whys) if raw else []
    if raw and len(raw.files) > len(raw.whys):
        notes.append(f"一共 {len(raw.files)} 个文件, 看了前 {len(raw.whys)} 个; 都看: -n {len(raw.files)}")
    if raw and raw.rejected:
        notes.append(f"看到这里有 {sum(raw.rejected.values())} 条不能用: {', '.join(raw.rejected)}")
    if model is None:
        blocks = [_plain_view(place, each) for place, each in enumerate(conversations, 1)]
        shown = [_as_dict(each) for each in conversations]
    else:
        encoder, chosen = _encoder_and_template(model, template)
        notes.append(f"模板 {chosen.name}; {'绿色' if _has_colour() else '【】里'}是要学的, 其余只看不学")
        views = [_mask_view(place, each, encoder, chosen) for place, each in enumerate(conversations, 1)]
        blocks = [text for text, _ in views]
        shown = [{**_as_dict(each), **ids} for each, (_, ids) in zip(conversations, views, strict=True)]
    return Answer(
        result={"conversations": shown, "notes": notes}, text="\n\n".join(["\n".join(notes), *blocks]).strip()
    )


def _first(data: Prepared | RawData, number: int) -> list[Conversation]:
    """The first conversations; of several raw files, some of each.

    Raises: DataError ``source.*``, ``format.*``, ``data.nothing-usable``.
    """
    from hantune.data.raw import RawData
    from hantune.errors import DataError

    if not isinstance(data, RawData) or len(data.files) == 1:
        found = list(islice(data.conversations("train"), number))
        return found + list(islice(data.conversations("val"), number - len(found)))
    found = []
    errors = []
    files = data.by_file()[:number]
    for place, file in enumerate(files):
        try:
            found += islice(file.conversations("train"), (number + place) // len(files))
        except DataError as error:
            if error.code != "data.nothing-usable":
                raise
            errors.append(error)
    if errors and not found:
        raise errors[0]
    return found


def _as_dict(conversation: Conversation) -> dict[str, Any]:
    messages = [{"role": m.role, "content": m.text, "learn": m.is_learned} for m in conversation.messages]
    return {"source": conversation.source, "messages": messages}


def _plain_view(number: int, conversation: Conversation) -> str:
    """The dialogue as people write it down; of a very long one, its beginning."""
    from hantune.data.show import printable

    names = {"system": "系统", "user": "问", "assistant": "答"}
    lines = [f"── 第 {number} 段  {conversation.source}"]
    for message in conversation.messages[:SHOWN_MESSAGES]:
        muted = message.role == "assistant" and not message.is_learned
        name = names[message.role] + (" (不学)" if muted else "")
        text = message.text[:SHOWN_CHARACTERS]
        more = f" ... (还有 {len(message.text) - len(text):,} 个字)" if len(text) < len(message.text) else ""
        lines.append(f"{name}  " + printable(text).replace("\n", "\n    ") + more)
    if len(conversation.messages) > SHOWN_MESSAGES:
        lines.append(f"... 还有 {len(conversation.messages) - SHOWN_MESSAGES} 句 (--json 有全文)")
    return "\n".join(lines)


def _mask_view(
    number: int, conversation: Conversation, encoder: Encoder, template: Template
) -> tuple[str, dict[str, Any]]:
    """The rendered text with its mask, the ids below; and the ids and mask for ``--json``."""
    from hantune.data.show import coloured, mask_view

    example = encoder.encode(template.render(conversation.messages, encoder.marks), source=conversation.source)
    pieces = mask_view(example, encoder)
    head = f"── 第 {number} 段  {conversation.source}  {len(example.ids)} 个词元, 要学 {sum(example.mask)} 个"
    more = (
        f"\n... 后面还有 {len(pieces) - SHOWN_PIECES:,} 个字 (--json 有全部编号)" if len(pieces) > SHOWN_PIECES else ""
    )
    pieces = pieces[:SHOWN_PIECES]
    text = coloured(pieces, _has_colour())
    ids = coloured(pieces, _has_colour(), with_ids=True) + more
    return f"{head}\n{text}\n编号  {ids}", {"ids": list(example.ids), "mask": list(example.mask)}


def _has_colour() -> bool:
    return sys.stdout.isatty() and not environment().no_color and not environment().dumb_terminal


@asks_me
def stats_command(
    data: Data,
    me: Me = None,
    model: Annotated[
        list[str] | None,
        typer.Option("--model", metavar="DIR", help="模型或分词器的文件夹: 还要词元的数字; 写多次 = 几个分词器比一比"),
    ] = None,
    template: TemplateName = "auto",
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE.html", help="另外写成一个网页文件: 有图, 不联网, 双击就能看")
    ] = None,
) -> Answer:
    """对话的数字: 轮数, 长度, 语言, 重复; 加 --model 还有词元数, 要学的比例和会被截断的比例.

    例子:  hantune data stats prepared --model m110 --out stats.html
    """
    from hantune.data.card import REASONS
    from hantune.data.raw import RawData, open_data
    from hantune.data.stats import Model, statistics
    from hantune.data.stats_text import as_text
    from hantune.log import console
    from hantune.report.data_page import write_data_page

    opened = open_data(data, me or ())
    names = _short_names(model or ())
    models = [Model(name, *_encoder_and_template(given, template)) for name, given in names.items()]
    result = statistics(opened, models)
    if isinstance(opened, RawData):
        result["rejected"] = dict(opened.rejected)
        for reason, count in opened.rejected.items():
            console.say(f"有 {count} 条不能用, 没有算进来: {REASONS.get(reason, '')} ({reason})")
    text = as_text(result)
    if out is not None:
        result["out"] = str(write_data_page(result, data, out))
        text += f"\n\n网页    {result['out']}  (双击打开)"
    return Answer(result=result, text=text)


def _short_names(models: Sequence[str]) -> dict[str, str]:
    """What each model is called -> what the user gave: its last part, or all of it where two end alike."""
    short = {Path(given).name or given: given for given in models}
    return short if len(short) == len(set(models)) else {given: given for given in models}


@asks_me
def check_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="整理好的文件夹")],
    model: Model = None,
    template: TemplateName = "auto",
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=8, metavar="N", help="一条样本最多多少个词元")] = 1024,
    against: Annotated[
        str | None, typer.Option("--against", metavar="DIR|SRC", help="另一份数据 (如测试集): 训练数据和它有没有重叠")
    ] = None,
    me: Me = None,
) -> Answer:
    """训练前的检查: 遮罩, 结束符, 模板, 截断, 训练和验证有没有重叠. 不通过就以 3 退出.

    例子:  hantune data check prepared --model m110 --max-tokens 512
    """
    from hantune.data.prepared import open_prepared
    from hantune.errors import ConfigError

    if model is None and against is None:
        raise ConfigError(
            "cli.usage", "要写明检查什么", place="data check", hint=f"hantune data check {folder} --model 模型文件夹"
        )
    prepared = open_prepared(folder)
    prepared.refuse_overlap()
    result: dict[str, Any] = {}
    lines: list[str] = []
    if against is not None:
        found = _compare(prepared, against, me or ())
        result["against"] = found.as_dict()
        lines.append(f"√ 训练数据 {found.compared} 段, 和 {against} 的 {found.held_out} 段没有重叠")
    if model is not None:
        report = _check_samples(prepared, model, template, max_tokens)
        result.update(report.as_dict())
        lines += report.lines()
    return Answer(result=result, text="\n".join(lines))


def _compare(prepared: Prepared, against: str, me: Sequence[str]) -> Overlap:
    """What the training part shares with other data: nothing.

    Raises: RefusedError ``split.leak``; DataError ``source.*``.
    """
    from hantune.data.dedup import refuse_leak
    from hantune.data.raw import open_data

    other = open_data(against, me)
    theirs = (conversation for part in ("train", "val") for conversation in other.conversations(part))
    return refuse_leak(prepared.conversations("train"), theirs, str(prepared.folder))


def _check_samples(prepared: Prepared, model: str, template: str, max_tokens: int) -> CheckReport:
    """The training samples as tokens, held against every rule.

    Raises: RefusedError ``mask.*``, ``template.*``.
    """
    from hantune.data.glance import check_prepared
    from hantune.log import console
    from hantune.models.load import chat_template

    encoder, chosen = _encoder_and_template(model, template)
    report = check_prepared(
        prepared,
        encoder,
        chosen,
        max_tokens=max_tokens,
        chat_template=chat_template(encoder.tokenizer),
        is_explicit=template != "auto",
    )
    for finding in report.warnings:
        console.warnings.append(finding)
    return report


def _encoder_and_template(model: str, name: str) -> tuple[Encoder, Template]:
    """The tokenizer of a model, adapter, run or bare tokenizer folder, and the template chosen for it.

    Raises: ModelError, ConfigError ``template.*``, NetworkError.
    """
    from hantune.data.templates import get_template
    from hantune.data.tokens import Encoder
    from hantune.models.load import chat_template, load_tokenizer, model_type
    from hantune.models.locate import is_adapter, is_run, locate

    path = Path(model).expanduser()
    if is_run(path) or is_adapter(path):
        located = locate(model)
        encoder = Encoder(load_tokenizer(located.tokenizer_path))
        return encoder, located.template if name == "auto" else get_template(name)
    tokenizer = load_tokenizer(model)
    encoder = Encoder(tokenizer)
    is_bare = path.is_dir() and not (path / "config.json").is_file()
    return encoder, get_template(
        name,
        chat_template=chat_template(tokenizer),
        model_type=_family_of(tokenizer) if is_bare else model_type(model),
        marks=encoder.marks,
    )


def _family_of(tokenizer: Any) -> str:
    """The model family that a tokenizer's class is named after: ``llama`` of ``LlamaTokenizerFast``."""
    return type(tokenizer).__name__.removesuffix("Fast").removesuffix("Tokenizer").lower()
