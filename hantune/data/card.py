"""``card.md`` of a PREPARED folder: what the data are, for people; and the table of reasons in plain words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hantune.data.clean.rules import FIXES
from hantune.data.stats_text import as_markdown
from hantune.data.turns import Yield

REASONS = {
    "source.too-long": "一行太长",
    "source.broken-json": "不是完整的 JSON",
    "source.broken-csv": "不是完整的 CSV",
    "source.broken-text": "有解不开的字节",
    "source.test-part": "文件自带的 test 部分, 不用",
    "source.val-part": "文件自带的验证部分, 已另外指定 --val",
    "source.train-part": "--val 文件里的训练部分, 不用",
    "format.unknown-fields": "字段和这个文件的格式不符",
    "format.roles": "说话人的次序不对",
    "format.one-turn": "只有一句话, 没有回答",
    "format.empty-answer": "回答是空的",
    "format.empty-question": "问题是空的",
    "format.not-text": "内容不是文字",
    "format.tool-turn": "有工具调用",
    "format.nothing-to-learn": "没有要学的回答",
    "format.user-error": "自己的格式在这一条上出了错",
    "format.user-skipped": "自己的格式没有要这一条",
    "split.in-val": "和验证数据相同",
    "split.near-val": "和验证数据很像, 或是同一次聊天",
    "dedup.exact": "和前面的对话相同",
    "dedup.near": "和前面的对话很像",
    "pii.found": "有隐私内容 (--pii drop)",
    "clean.empty": "清洗以后有一句是空的",
    "clean.length": "只有标点, 或者太长",
    "clean.looping": "回答翻来覆去",
    "clean.chinese": "不是中文",
    "clean.template": "文字里有模板的控制符",
    "clean.ads": "像广告",
    "clean.blocked": "有屏蔽词",
    "chatlog.no-question": "聊天: 前面没有别人的话",
    "chatlog.no-answer": "聊天: 你没有回",
    "chatlog.late-answer": "聊天: 过了很久才回",
    "chatlog.cut": "聊天: 被图片, 语音一类隔断",
    "chatlog.not-text": "聊天: 不是文字",
    "chatlog.bad-time": "聊天: 读不懂的时间",
    "sampled-out": "抽样时没有选中 (--max-samples)",
}
"""reason -> what it means."""


def card(manifest: dict[str, Any], figures: Mapping[str, Any] | None = None) -> str:
    """The manifest, and what ``sketch`` found, as a page of Markdown (Chinese)."""
    flags = manifest["flags"]
    lines = [
        "# 整理好的对话数据",
        "",
        f"训练 {manifest['train']} 段, 验证 {manifest['val']} 段. "
        f"读了 {manifest['read']} 条, 留下 {manifest['kept']} 条, 去掉 {sum(manifest['dropped'].values())} 条.",
        "",
        "## 来源",
        "",
        "| 文件 | 格式 | 编码 | 读 | 留 | sha256 |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {source['path']} | {source['format']} | {source['encoding']} | {source['read']} | {source['kept']} "
        f"| {source['sha256'][:16]} |"
        for source in manifest["sources"]
    ]
    for source in manifest["sources"]:
        if log := source.get("log"):
            lines += [
                "",
                f"## 聊天记录 {source['path']}",
                "",
                *(f"- {line}" for line in Yield.of(log).text().split("\n")),
            ]
    if manifest["dropped"]:
        lines += ["", "## 去掉的", "", "| 原因 | 意思 | 条数 | 第一处 |", "|---|---|---|---|"]
        lines += [
            f"| {reason} | {REASONS.get(reason, '')} | {count} | {manifest['first_places'].get(reason, '')} |"
            for reason, count in manifest["dropped"].items()
        ]
        lines += ["", "每一条的原文和原因在 `rejects.jsonl` (抽样没选中的和没用的部分除外)."]
    lines += _changes(manifest)
    if figures and figures["rows"]:
        lines += ["", "## 数据是什么样的", "", *as_markdown(figures)]
    lines += [
        "",
        "## 怎样重做",
        "",
        "```",
        _command(manifest),
        "```",
        "",
        "划分按对话文字的哈希和种子决定: 相同的对话不会同时出现在训练和验证里, 数据变多时原有的划分不变.",
        f"数据指纹 {manifest['fingerprint'][:16]}, 种子 {flags['seed']}.",
        "",
    ]
    return "\n".join(lines)


def _changes(manifest: dict[str, Any]) -> list[str]:
    """What was done to texts: cleaning with an example a rule, private values by kind, duplicates."""
    lines: list[str] = []
    cleaning = manifest.get("clean")
    if cleaning and cleaning["changed"]:
        lines += ["", "## 改过的文字", "", "| 规则 | 意思 | 改了几句 | 例: 以前 | 以后 |", "|---|---|---|---|---|"]
        for name, count in cleaning["changed"].items():
            sample = cleaning["samples"][name][0]
            cells = [_cell(sample["before"]), _cell(sample["after"])]
            lines.append(f"| {name} | {FIXES[name].words} | {count} | {' | '.join(cells)} |")
    if found := manifest.get("pii", {}).get("found"):
        lines += ["", "## 隐私", ""]
        lines += [f"{'去掉了含有' if manifest['flags']['pii'] == 'drop' else '换成了代号'}: "]
        lines[-1] += ", ".join(f"{kind} {count} 处" for kind, count in found.items())
    if duplicates := manifest.get("duplicates"):
        lines += ["", "## 重复", ""]
        lines += [f"去掉相同的 {duplicates['exact']} 段, 很像的 {duplicates['near']} 段; 每一对在 `rejects.jsonl`."]
    return lines


def _cell(text: str) -> str:
    """A text inside a cell of a table, for a console and a page alike."""
    plain = text.replace("|", "\\|").replace("\n", " / ")
    return plain.encode("gbk", "replace").decode("gbk")


def _command(manifest: dict[str, Any]) -> str:
    """The command that makes this folder again from the same files."""
    flags = manifest["flags"]
    paths = [source["path"] for source in manifest["sources"] if source["part"] == "train"]
    words = ["hantune data prepare", *(_quoted(path) for path in paths), "--out DIR"]
    options = {"format": "--format", "max_samples": "--max-samples", "max_turns": "--max-turns", "seed": "--seed"}
    options |= {"pii": "--pii"}
    words += [f"{option} {flags[name]}" for name, option in options.items() if flags.get(name) is not None]
    words += [f"--dedup {flags['dedup']}"] if flags.get("dedup", "off") != "off" else []
    words += [f"--clean {','.join(flags['clean'])}"] if flags.get("clean") else []
    words += ["--me 你的名字"] if flags.get("me") else []
    words += ["--block-words 文件"] if flags.get("blocked") else []
    words += [f"--val {_quoted(path)}" for path in flags["val"]] or [f"--val-share {flags['val_share']}"]
    return " ".join(words + (["--strict"] if flags["strict"] else []))


def _quoted(path: str) -> str:
    return f'"{path}"' if " " in path else path
