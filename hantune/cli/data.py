"""``hantune data``: prepare, look at, count and check conversations."""

from __future__ import annotations

import sys
from enum import Enum
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hantune.cli.data_export import export_command
from hantune.cli.frame import Answer, command, new_app
from hantune.env import environment
from hantune.paths import quoted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hantune.data.check import CheckReport
    from hantune.data.dedup import Overlap
    from hantune.data.prepared import Prepared
    from hantune.data.templates.base import Template
    from hantune.data.tokens import Encoder
    from hantune.data.types import Conversation

app = new_app("整理, 查看, 统计, 检查对话数据")

Model = Annotated[str | None, typer.Option("--model", help="模型文件夹或名字: 用它的分词器和模板")]
TemplateName = Annotated[str, typer.Option("--template", help="模板名; auto = 模型自带的或按家族选")]
Me = Annotated[
    list[str] | None,
    typer.Option("--me", metavar="NAME|ID", help="聊天记录里哪个是你 (号码或名字), 改过名可写多次: 你的话是要学的回答"),
]
Data = Annotated[str, typer.Argument(metavar="DIR|SRC", help="整理好的文件夹, 或原始数据文件")]


class Pii(Enum):
    """What to do with private values."""

    mask = "mask"
    keep = "keep"
    drop = "drop"


class Duplicates(Enum):
    """Which repeated conversations are left out."""

    off = "off"
    exact = "exact"
    near = "near"


Privacy = Annotated[
    Pii | None,
    typer.Option(
        "--pii",
        metavar="WAY",
        help="隐私内容: mask 换成代号, keep 保留, drop 整段去掉; 不写 = 聊天记录 mask, 其它 keep",
    ),
]
DedupMode = Annotated[
    Duplicates,
    typer.Option("--dedup", metavar="WAY", help="重复的对话: off 不管, exact 相同的只留一段, near 很像的也只留一段"),
]
Workers = Annotated[int | None, typer.Option("--workers", min=1, metavar="N", help="用几个进程; 不写 = 有几个核用几个")]
Part = Annotated[
    str | None, typer.Option("--shard", metavar="I/N", help="只整理 N 份里的第 I 份, 以后把各份的文件夹一起再整理")
]


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
    me: Me = None,
    pii: Privacy = None,
    dedup: DedupMode = Duplicates.off,
    clean: Annotated[
        str | None,
        typer.Option("--clean", metavar="NAMES", help="清洗规则: default, all, 或用逗号连起来的名字; 不写 = 不清洗"),
    ] = None,
    block_words: Annotated[
        Path | None, typer.Option("--block-words", metavar="FILE", help="屏蔽词, 一行一个: 有这些词的对话去掉")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="有一条不能用就停下报错")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="替换 --out 里以前整理的数据")] = False,
    workers: Workers = None,
    shard: Part = None,
) -> Answer:
    """把原始对话整理成训练数据: 认格式和编码, 去掉不能用的 (逐条说明), 划分训练和验证.

    例子:  hantune data prepare 对话.jsonl --out prepared
    """
    from hantune.data.formats.user import from_command_line
    from hantune.data.prepare import prepare

    manifest = prepare(
        sources,
        out,
        format=from_command_line(format),
        max_samples=max_samples,
        max_turns=max_turns,
        val_share=val_share,
        val=val or (),
        seed=seed,
        me=me or (),
        pii=pii.value if pii else None,
        dedup=dedup.value,
        clean=clean,
        blocked=block_words,
        strict=strict,
        replace=replace,
        workers=workers,
        shard=shard,
    )
    return Answer(result={"out": str(out), **manifest}, text=_prepared_text(manifest, out))


def _prepared_text(manifest: dict[str, Any], out: Path) -> str:
    """What was read, recognised, left out, split and written, and what to do next."""
    from hantune.data.card import REASONS

    if "shard" in manifest:
        done = f"读入  {manifest['read']} 条, 第 {'/'.join(map(str, manifest['shard']))} 份写到 {out}"
        return f"{done}\n接着  各份齐了以后: hantune data prepare 各份的文件夹 --out DIR"
    lines = []
    for source in manifest["sources"]:
        lines.append(
            f"读入  {source['path']}  编码 {source['encoding']}  {source['read']} 条, 留下 {source['kept']} 条"
        )
        lines.append(f"认出  {source['why']}")
        if log := source.get("log"):
            lines.append(f"聊天  {log['read']} 条消息, 用上 {log['kept']} 条, 得到 {log['answers']} 个回答")
    first_places = manifest["first_places"]
    own = " (文件自带的验证部分)" if any(source["has_val"] for source in manifest["sources"]) else ""
    for reason, count in sorted(manifest["dropped"].items(), key=lambda item: -item[1]):
        first = f"  第一处 {first_places[reason]}" if reason in first_places else ""
        lines.append(f"去掉  {count} 条 {REASONS.get(reason, '')} ({reason}){first}")
    lines += _changes(manifest)
    lines += [
        f"切分  训练 {manifest['train']} 段, 验证 {manifest['val']} 段{own}",
        f"写到  {out}  (说明 card.md, 去掉的 rejects.jsonl)",
        f"接着  hantune data look {quoted(out)}",
    ]
    return "\n".join(lines)


def _changes(manifest: dict[str, Any]) -> list[str]:
    """What was done to texts, a line each."""
    lines = [f"清洗  {name} 改了 {n} 句" for name, n in manifest.get("clean", {}).get("changed", {}).items()]
    if found := manifest.get("pii", {}).get("found"):
        done = "去掉了含有的对话" if manifest["flags"]["pii"] == "drop" else "换成了代号"
        lines.append("隐私  " + ", ".join(f"{kind} {count} 处" for kind, count in found.items()) + f", {done}")
    if duplicates := manifest.get("duplicates"):
        lines.append(f"重复  相同的去掉 {duplicates['exact']} 段, 很像的去掉 {duplicates['near']} 段")
    return lines


@command(app, "look")
def look(
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
def stats(data: Data, me: Me = None, model: Model = None, template: TemplateName = "auto") -> Answer:
    """对话的数字: 轮数, 长度, 汉字比例; 加 --model 还有词元数和会被截断的比例.

    例子:  hantune data stats prepared --model m110
    """
    from hantune.data.raw import RawData, open_data
    from hantune.data.stats import as_text, statistics
    from hantune.log import console

    opened = open_data(data, me or ())
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
    from hantune.data.check import check_data
    from hantune.log import console
    from hantune.models.load import chat_template

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
    return report


command(app, "export")(export_command)


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
