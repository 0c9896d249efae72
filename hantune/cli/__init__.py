"""The commands: one file per verb, nothing but parsing and printing.

The first word picks the module from ``VERBS``; only that module is imported, so ``hantune --help`` and
``hantune VERB --help`` cost no more than typer itself.
"""

from __future__ import annotations

import sys

from hantune.cli.frame import run_app

VERBS: dict[str, tuple[str, str]] = {
    "demo": ("hantune.cli.demo", "两分钟走完全程: 不用显卡, 不用下载"),
    "init": ("hantune.cli.init", "写一份带中文说明的运行配置"),
    "config": ("hantune.cli.config", "查看或检查运行配置 (show, check)"),
    "data": ("hantune.cli.data", "整理, 查看, 统计, 检查, 导出对话数据 (prepare, look, stats, check, export)"),
    "model": ("hantune.cli.model", "下载, 检查, 转换, 扩词表, 合并, 导出模型 (get, check, convert ...)"),
    "plan": ("hantune.cli.plan", "训练之前先算: 内存, 时间, 磁盘够不够; 不够怎样改"),
    "train": ("hantune.cli.train", "按配置训练"),
    "resume": ("hantune.cli.resume", "从最近的好检查点接着练"),
    "eval": ("hantune.cli.eval", "在留出数据上评测模型"),
    "chat": ("hantune.cli.chat", "和模型聊天"),
    "batch": ("hantune.cli.batch", "批量生成回答"),
    "serve": ("hantune.cli.serve", "对外服务: OpenAI 的接口, 聊天网页, /stream"),
    "report": ("hantune.cli.report", "把一次运行写成一个网页文件"),
    "publish": ("hantune.cli.publish", "发布模型或适配器到 Hugging Face 或 ModelScope"),
    "finetune": ("hantune.cli.finetune", "一条命令: 整理, 训练, 评测, 合并, 报告 (run_finetune.sh 用它)"),
}
"""verb -> (module with ``app``, one line of help), in the order a newcomer needs them."""


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns its exit code (design section 5)."""
    return run_app(VERBS, sys.argv[1:] if argv is None else argv)
