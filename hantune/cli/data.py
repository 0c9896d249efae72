"""``hantune data``: prepare, look at, count and check conversations."""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hantune.cli.frame import Answer, command, new_app
from hantune.env import environment
from hantune.paths import quoted

if TYPE_CHECKING:
    from hantune.data.templates.base import Template
    from hantune.data.tokens import Encoder
    from hantune.data.types import Conversation

app = new_app("整理, 查看, 统计, 检查对话数据")

Model = Annotated[str | None, typer.Option("--model", help="模型文件夹或名字: 用它的分词器和模板")]
TemplateName = Annotated[str, typer.Option("--template", help="模板名; auto = 模型自带的或按家族选")]
Data = Annotated[str, typer.Argument(metavar="DIR|SRC", help="整理好的文件夹, 或原始数据文件")]


@command(app, "prepare")
def prepare_command(
    sources: Annotated[list[str], typer.Argument(metavar="SRC", help="数据文件或文件夹, 可以有多个")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="写到哪个文件夹")],
    format: Annotated[str | None, typer.Option("--format", metavar="NAME", help="格式名; 不写 = 自动认")] = None,
    max_samples: Annotated[
        int | None, typer.Option("--max-samples", min=1, metavar="N", help="训练部分最多 N 段, 按种子抽样; 不写 = 全部")
    ] = None,
    max_turns: Annotated[
        int | None, typer.Option("--max-turns", min=1, metavar="N", help="每段最多保留前 N 轮 (一问一答算一轮)")
    ] = None,
    val_share: Annotated[
        float, typer.Option("--val-share", min=0, max=1, metavar="F", help="留作验证的比例 (0 到 1)")
    ] = 0.05,
    val: Annotated[
        list[str] | None, typer.Option("--val", metavar="SRC", help="另外指定验证数据, 可写多次; 这时 --val-share 不用")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, metavar="N", help="划分和抽样的种子")] = 42,
    strict: Annotated[bool, typer.Option("--strict", help="有一条不能用就停下报错")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="替换 --out 里以前整理的数据")] = False,
) -> Answer:
    """把原始对话整理成训练数据: 认格式和编码, 去掉不能用的 (逐条说明), 划分训练和验证.

    例子:  hantune data prepare 对话.jsonl --out prepared
    """
    from hantune.data.prepare import prepare

    manifest = prepare(
        sources,
        out,
        format=format,
        max_samples=max_samples,
        max_turns=max_turns,
        val_share=val_share,
        val=val or (),
        seed=seed,
        strict=strict,
        replace=replace,
    )
    return Answer(result={"out": str(out), **manifest}, text=_prepared_text(manifest, out))


def _prepared_text(manifest: dict[str, Any], out: Path) -> str:
    """What was read, recognised, left out, split and written, and what to do next."""
    from hantune.data.card import REASONS

    lines = []
    for source in manifest["sources"]:
        lines.append(
            f"读入  {source['path']}  编码 {source['encoding']}  {source['read']} 条, 留下 {source['kept']} 条"
        )
        lines.append(f"认出  {source['why']}")
    first_places = manifest["first_places"]
    own = " (文件自带的验证部分)" if any(source["has_val"] for source in manifest["sources"]) else ""
    for reason, count in sorted(manifest["dropped"].items(), key=lambda item: -item[1]):
        first = f"  第一处 {first_places[reason]}" if reason in first_places else ""
        lines.append(f"去掉  {count} 条 {REASONS.get(reason, '')} ({reason}){first}")
    lines += [
        f"切分  训练 {manifest['train']} 段, 验证 {manifest['val']} 段{own}",
        f"写到  {out}  (说明 card.md, 去掉的 rejects.jsonl)",
        f"接着  hantune data look {quoted(out)}",
    ]
    return "\n".join(lines)


@command(app, "look")
def look(
    data: Data,
    model: Model = None,
    template: TemplateName = "auto",
    number: Annotated[int, typer.Option("--number", "-n", min=1, metavar="N", help="看几段")] = 3,
) -> Answer:
    """看几段对话; 加 --model 还看送给模型的文字和编号, 绿色是要学的, 灰色只看不学.

    例子:  hantune data look prepared --model m110 -n 5
    """
    from hantune.data.raw import RawData, open_data

    opened = open_data(data)
    raw = opened if isinstance(opened, RawData) else None
    conversations = list(islice(opened.conversations("train"), number))
    conversations += list(islice(opened.conversations("val"), number - len(conversations)))
    notes = list(raw.whys) if raw else []
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


def _as_dict(conversation: Conversation) -> dict[str, Any]:
    messages = [{"role": m.role, "content": m.text, "learn": m.is_learned} for m in conversation.messages]
    return {"source": conversation.source, "messages": messages}


def _plain_view(number: int, conversation: Conversation) -> str:
    """The dialogue as people write it down."""
    names = {"system": "系统", "user": "问", "assistant": "答"}
    lines = [f"── 第 {number} 段  {conversation.source}"]
    for message in conversation.messages:
        muted = message.role == "assistant" and not message.is_learned
        name = names[message.role] + (" (不学)" if muted else "")
        lines.append(f"{name}  " + message.text.replace("\n", "\n    "))
    return "\n".join(lines)


def _mask_view(
    number: int, conversation: Conversation, encoder: Encoder, template: Template
) -> tuple[str, dict[str, Any]]:
    """The rendered text with its mask, the ids below; and the ids and mask for ``--json``."""
    from hantune.data.show import coloured, mask_view

    example = encoder.encode(template.render(conversation.messages, encoder.marks), source=conversation.source)
    pieces = mask_view(example, encoder)
    head = f"── 第 {number} 段  {conversation.source}  {len(example.ids)} 个词元, 要学 {sum(example.mask)} 个"
    text = coloured(pieces, _has_colour())
    ids = coloured(pieces, _has_colour(), with_ids=True)
    return f"{head}\n{text}\n编号  {ids}", {"ids": list(example.ids), "mask": list(example.mask)}


def _has_colour() -> bool:
    return sys.stdout.isatty() and not environment().no_color and not environment().dumb_terminal


@command(app, "stats")
def stats(data: Data, model: Model = None, template: TemplateName = "auto") -> Answer:
    """对话的数字: 轮数, 长度, 汉字比例; 加 --model 还有词元数和会被截断的比例.

    例子:  hantune data stats prepared --model m110
    """
    from hantune.data.raw import RawData, open_data
    from hantune.data.stats import as_text, statistics
    from hantune.log import console

    opened = open_data(data)
    encoder, chosen = _encoder_and_template(model, template) if model else (None, None)
    result = statistics(opened, encoder, chosen)
    if isinstance(opened, RawData):
        result["rejected"] = dict(opened.rejected)
        for reason, count in opened.rejected.items():
            console.say(f"有 {count} 条不能用 ({reason}), 没有算进来")
    return Answer(result=result, text=as_text(result))


@command(app, "check")
def check(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="整理好的文件夹")],
    model: Annotated[str, typer.Option("--model", help="模型文件夹或名字: 用它的分词器和模板")],
    template: TemplateName = "auto",
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=8, metavar="N", help="一条样本最多多少个词元")] = 1024,
) -> Answer:
    """训练前的检查: 遮罩, 结束符, 模板, 截断, 训练和验证有没有重叠. 不通过就以 3 退出.

    例子:  hantune data check prepared --model m110 --max-tokens 512
    """
    from hantune.data.check import check_data
    from hantune.data.prepared import open_prepared
    from hantune.log import console
    from hantune.models.load import chat_template

    prepared = open_prepared(folder)
    prepared.refuse_overlap()
    encoder, chosen = _encoder_and_template(model, template)
    report = check_data(
        prepared.conversations("train"),
        encoder,
        chosen,
        max_tokens=max_tokens,
        chat_template=chat_template(encoder.tokenizer),
        is_explicit=template != "auto",
    )
    for finding in report.warnings:
        console.warnings.append(finding)
    return Answer(result=report.as_dict(), text="\n".join(report.lines()))


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
        model_type=None if is_bare else model_type(model),
        marks=encoder.marks,
    )
