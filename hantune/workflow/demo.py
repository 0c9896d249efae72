"""``hantune demo``: the whole way on embedded data, offline, on a CPU, in under two minutes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hantune.log import console, duration
from hantune.paths import write_json
from hantune.workflow.embedded import (
    PERSONA_SETTINGS,
    persona_dialogues,
    persona_questions,
    teach_base,
    unused_folder,
)
from hantune.workflow.finetune import ANSWER_TOKENS, Job, JobResult, finetune, loss_line, merge_line, values_of

PERSONA = "persona"
"""The run's folder inside a demo's."""


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """The job on the persona, and what base and tuned model say to the same questions."""

    job: JobResult
    comparison: list[dict[str, Any]]
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {**self.job.as_dict(), "comparison": self.comparison, "seconds": round(self.seconds, 1)}


def demo(out: Path, **job_settings: Any) -> DemoResult:
    """Teach a small base, tune it to a persona, compare, merge, report.

    ``job_settings`` replace fields of the persona's ``Job`` (other data, more epochs): what a bare
    ``run_finetune.sh`` with some flags asks for. The persona's own settings yield to them and to a
    configuration file. Raises: what ``finetune`` raises.
    """
    start = time.monotonic()
    settings = {"dataset": str(persona_dialogues()), "val_share": 0.1, **job_settings}
    asked = {**values_of(settings.get("config_file")), **settings.get("overrides", {})}
    settings["overrides"] = {**PERSONA_SETTINGS, **asked}
    root = unused_folder(out)
    console.say("[0/5] 造一个小模型 (真实任务里换成你下载的底座)")
    base = teach_base(root / "base", device=asked.get("train.device", "auto"))
    job = finetune(Job(model=str(base), output=root / PERSONA, **settings))
    comparison = compare(str(base), str(job.training.run.root), persona_questions())
    write_json(root / "comparison.json", comparison)
    return DemoResult(job=job, comparison=comparison, seconds=time.monotonic() - start)


def compare(base: str, tuned: str, questions: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each question with the answers of both models (greedy)."""
    from hantune.data.types import Message
    from hantune.infer.engine import open_engine
    from hantune.infer.sample import SamplingParams

    asked = [[Message(role="user", text=question["prompt"])] for question in questions]
    params = SamplingParams(max_tokens=ANSWER_TOKENS)
    answers = [open_engine(model, device="cpu").answer_many(asked, params) for model in (base, tuned)]
    return [
        {**question, "before": before.text, "after": after.text, "finish_reason": after.finish_reason}
        for question, before, after in zip(questions, *answers, strict=True)
    ]


def demo_text(result: DemoResult) -> str:
    """What the newcomer reads at the end."""
    run = result.job.training.run
    lines = ["", "对比  (问题 / 调之前 / 调之后)"]
    for row in result.comparison:
        kind = "教过" if row["taught"] else "没教过"
        lines += [f"  问 ({kind}): {row['prompt']}", f"    前: {row['before']}", f"    后: {row['after']}"]
    taught = [row for row in result.comparison if row["expected"]]
    right = [sum(row[when] == row["expected"] for row in taught) for when in ("before", "after")]
    lines += [
        "",
        f"人设      教过的 {len(taught)} 个问题, 逐字答对: 调之前 {right[0]} 个, 调之后 {right[1]} 个",
        *loss_line(result.job.training),
        merge_line(result.job.merge),
        f"用时      {duration(result.seconds)}",
        f"报告      {result.job.report}  (双击打开)",
        "",
        "说明  这个小模型只有三百万参数, 只读过几百段短对话: 教过的话能背出来; 换个说法, 或者没教过的知识,",
        "      它答不上, 会胡说. 这是模型小, 不是流程错: 同样的流程换上真正的底座就能举一反三.",
        "下一步",
        f"  和它聊天      hantune chat {run.root}",
        "  换真正的模型  下载一个 Llama (例如 Llama-3.2-1B-Instruct) 到文件夹 MODEL, 然后",
        "                bash run_finetune.sh --model_name_or_path MODEL --local_model --dataset_name 你的数据.jsonl",
    ]
    return "\n".join(lines)
