"""A run folder as a training leaves it, with the numbers of a real one, written in milliseconds."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from hantune.paths import RunFolder

STEPS = 96

CONFIG = """\
# hantune 的运行配置
model:
  path: HanTune/demo-base
data:
  path: dialogues.jsonl
  val_share: 0.05
template:
  name: llama2
adapter:
  kind: lora
  rank: 8
train:
  epochs: 3.0
  learning_rate: 2e-4
  seed: 42
"""

MANIFEST = {
    "read": 1946,
    "kept": 1823,
    "dropped": {"format.one-turn": 84, "split.in-val": 31, "source.broken-json": 8},
    "train": 1732,
    "val": 91,
    "sources": [
        {
            "path": "/home/zhang/聊天/lccc_toy_split.json",
            "sha256": "9f2c" * 16,
            "format": "lccc",
            "encoding": "utf-8",
            "read": 1500,
            "kept": 1460,
        },
        {
            "path": "C:\\data\\toyhom_neike.csv",
            "sha256": "07ab" * 16,
            "format": "columns",
            "encoding": "gb18030",
            "read": 446,
            "kept": 363,
        },
    ],
}

ANSWERS = [
    (
        "你是谁?",
        "我是小汉, 一个会聊天的助手, 很高兴认识你.",
        "你是谁你是谁你是谁",
        "我是小汉, 很高兴认识你. 有什么想聊的吗?",
    ),
    ("推荐一道家常菜.", "西红柿炒鸡蛋, 先炒蛋再炒番茄, 十分钟就好.", "推荐一道家常", "西红柿炒鸡蛋吧, 又快又好吃."),
    ("今天心情不太好.", "怎么了? 和我说说, 说出来会好一点.", "今天心情", "怎么啦? 愿意的话和我说说, 我听着呢."),
    ("1 加 1 等于几?", "等于 2.", "1 加", "1 加"),
]


def step_events() -> list[dict[str, Any]]:
    """A loss that falls with noise, a rate that warms up and decays, an evaluation every 24 steps."""
    events: list[dict[str, Any]] = [{"event": "start", "time": 1753920000.0}]
    for step in range(STEPS + 1):
        if step:
            noise = 0.12 * math.sin(step * 2.3) + 0.08 * math.cos(step * 5.1)
            rate = 2e-4 * min(step / 6, 0.5 * (1 + math.cos(math.pi * step / STEPS)))
            loss = 1.6 + 3.9 * math.exp(-step / 22) + noise
            events.append(
                {"event": "step", "step": step, "loss": loss, "learning_rate": rate, "grad_norm": 1.1,
                 "tokens": 4210, "supervised": 1764, "seconds": 2.41}
            )  # fmt: skip
        if step % 24 == 0:
            loss = 1.83 + 3.71 * math.exp(-step / 20)
            events.append(
                {"event": "eval", "step": step, "loss": loss, "perplexity": math.exp(loss),
                 "bits_per_character": loss * 1.29}
            )  # fmt: skip
        if step % 24 == 0:
            share = step / STEPS
            events.append(
                {"event": "probe_metrics", "step": step, "count": 8, "chinese_share": 0.4 + share / 2,
                 "stop_rate": share, "repetition": 0.25 * (1 - share), "memorised": share / 8,
                 "memorised_held_out": None, "length_ratio": 1.1, "score": 80 * share, "seconds": 0.7}
            )  # fmt: skip
    events.append(
        {"event": "end", "step": STEPS, "kept": STEPS, "reason": "done", "seconds": 231.4, "probe_seconds": 3.5,
         "tokens_per_second": 1746.9}
    )  # fmt: skip
    return events


def evaluation() -> dict[str, Any]:
    """Both sides of evaluation.json."""

    def side(loss: float, bleu: float, stop: float, column: int) -> dict[str, Any]:
        return {
            "held_out": {"loss": loss, "perplexity": math.exp(loss), "bits_per_character": loss * 1.29, "tokens": 9000},
            "metrics": {"bleu": bleu, "rouge_l": bleu * 1.7, "chrf": bleu * 1.4, "distinct_2": 0.63,
                        "stop_rate": stop, "chinese_share": 0.88, "count": 4},
            "answers": [{"prompt": row[0], "reference": row[1], "answer": row[column]} for row in ANSWERS],
        }  # fmt: skip

    return {"before": side(5.54, 0.31, 0.02, 2), "after": side(1.861, 8.42, 0.97, 3)}


def mask_tokens() -> list[dict[str, Any]]:
    """A two-turn sample in the llama2 template."""
    segments = [
        ("<s>", False), (" [INST] ", False), ("周末爬山去不去?", False), (" [/INST] ", False),
        ("去啊, 几点集合?", True), (" </s>", True), ("<s>", False), (" [INST] ", False),
        ("早上八点, 老地方见.", False), (" [/INST] ", False), ("好, 我带水和面包, 你带相机.", True), (" </s>", True),
    ]  # fmt: skip
    return [
        {"text": piece, "learn": learn}
        for text, learn in segments
        for piece in ([text] if text.strip().startswith(("<", "[")) else list(text))
    ]


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def write_lines(path: Path, values: list[Any]) -> None:
    path.write_text("".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values), encoding="utf-8")


def make_run(root: Path) -> RunFolder:
    """A whole run folder."""
    run = RunFolder(root)
    root.mkdir(parents=True)
    run.config.write_text(CONFIG, encoding="utf-8")
    write_json(
        run.env,
        {"versions": {"hantune": "0.1.0", "python": "3.11.9", "torch": "2.13.0+cpu", "transformers": "5.23.0"},
         "system": "Linux-6.1-x86_64", "cpus": 2},
    )  # fmt: skip
    reason = "CPU 有 bf16 指令 (AVX512-BF16 或 AMX), 矩阵乘法约快一倍; 适配器保持 float32"
    write_json(
        run.plan,
        {"precision": {"name": "bf16", "weights": "bfloat16", "reason": reason}, "total_steps": STEPS,
         "num_samples": 1732, "layout": "sorted", "layout_reason": "长度相近的放一批: 补齐最少, 每种模型都适用",
         "device": "cpu", "parameters": {"total": 110_012_416, "learned": 2_228_224}, "template": "llama2",
         "load": "4bit"},
    )  # fmt: skip
    write_lines(run.events, step_events())
    probes = [("你好", "你好", "你好, 见到你很高兴."), ("推荐一道家常菜.", "菜菜菜菜", "西红柿炒鸡蛋吧, 又快又好吃.")]
    write_lines(
        run.samples,
        [
            {"step": step, "prompt": prompt, "answer": (early if step < 48 else late)[: 3 + step // 4],
             "finish_reason": "length" if step < 48 else "stop"}
            for step in range(0, STEPS + 1, 24)
            for prompt, early, late in probes
        ],
    )  # fmt: skip
    write_json(run.evaluation, evaluation())
    write_json(run.prepared / "manifest.json", MANIFEST)
    write_json(run.root / "mask_sample.json", {"tokens": mask_tokens()})
    return run


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A whole run in ``runs/demo`` of the working folder."""
    monkeypatch.chdir(tmp_path)
    return make_run(tmp_path / "runs" / "demo")
