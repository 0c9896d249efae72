"""Write ``docs/troubleshooting/README.md``: every page with its heading, by area.

python tools/make_troubleshooting_index.py
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

PAGES = Path(__file__).resolve().parents[1] / "docs" / "troubleshooting"
INDEX = PAGES / "README.md"

AREAS = {
    "cli": "命令行",
    "config": "运行配置",
    "source": "数据文件",
    "format": "数据格式",
    "chatlog": "聊天记录",
    "data": "整理好的数据",
    "clean": "清洗",
    "split": "训练和验证的划分",
    "export": "导出",
    "shard": "分份整理",
    "template": "提示模板",
    "mask": "学习遮罩",
    "tokens": "词元",
    "tokenizer": "分词器",
    "model": "模型文件夹",
    "hub": "下载",
    "plan": "训练之前的估计",
    "train": "训练",
    "run": "运行文件夹",
    "adapter": "适配器",
    "convert": "转换",
    "vocab": "扩充词表",
    "merge": "合并",
    "infer": "聊天和批量生成",
    "serve": "对外服务",
    "eval": "评测",
    "report": "报告",
    "publish": "发布",
    "finetune": "一条命令 (run_finetune.sh)",
    "machine": "机器: 内存, 磁盘, 显卡",
    "internal": "hantune 自己的毛病",
}
"""The first word of a code -> what it is about, in the order in which a newcomer meets them."""

HEAD = """# 出错了怎么办

<!-- 由 tools/make_troubleshooting_index.py 从各页的标题生成. -->

hantune 的每个错误都有一个代码, 每个代码在这里有一页: 为什么会这样, 怎么办, 一个例子.

```
错误  data.nothing-usable          代码: 在下面找它
原因  没有一条能用的对话: ...       找到的值
位置  a.jsonl:1                    文件:行, 或者配置项
办法  ...                          一条命令, 或者怎么改
```

退出码: 0 完成, 1 过程失败, 2 用法或配置有误, 3 检查不通过 (还没有开始做), 4 网络, 5 数据无效, 6 环境;
130 和 143 是被中断, 检查点已保存.
"""


def page() -> str:
    """The index as Markdown."""
    return HEAD + "".join(f"\n{line}" if line.startswith("##") else line for line in _lines())


def _lines() -> Iterator[str]:
    codes = sorted(path.stem for path in PAGES.glob("*.md") if path != INDEX)
    for area, words in AREAS.items():
        mine = [code for code in codes if code.split(".")[0] == area]
        if mine:
            yield f"## {words}\n\n"
            yield from (f"- [{code}]({code}.md): {heading(code)}\n" for code in mine)
    unknown = [code for code in codes if code.split(".")[0] not in AREAS]
    if unknown:
        raise KeyError(f"no area for {', '.join(unknown)}: add it to AREAS")


def heading(code: str) -> str:
    """The first line of a page, without its mark."""
    return (PAGES / f"{code}.md").read_text(encoding="utf-8").split("\n", 1)[0].removeprefix("# ")


if __name__ == "__main__":
    INDEX.write_text(page(), encoding="utf-8")
