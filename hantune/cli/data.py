"""``hantune data``: prepare, look at, count and check conversations."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from hantune.cli.data_export import export_command
from hantune.cli.data_look import Me, check_command, look_command, stats_command
from hantune.cli.data_me import asks_me
from hantune.cli.data_way_out import told_how_to_leave_out
from hantune.cli.frame import Answer, command, new_app
from hantune.paths import quoted

app = new_app("整理, 查看, 统计, 检查对话数据")


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
@asks_me
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

    with told_how_to_leave_out([*sources, *(val or ())]):
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
    from hantune.data.turns import Yield

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
            lines += [f"聊天  {line}" for line in Yield.of(log).text().split("\n")]
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


command(app, "look")(look_command)
command(app, "stats")(stats_command)
command(app, "check")(check_command)
command(app, "export")(export_command)
