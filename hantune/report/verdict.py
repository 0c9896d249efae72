"""What was done and what came of it, in sentences a newcomer reads first; never better than the numbers are."""

from __future__ import annotations

from pathlib import Path, PureWindowsPath
from typing import Literal, NamedTuple

from hantune.log import duration
from hantune.paths import quoted
from hantune.report.data import RunData, inside, number
from hantune.report.words import count, decimal

FLAT_SHARE = 0.005
"""A loss that moves by less than this share has not moved."""
RISE_SHARE = 0.03
"""A held-out loss that ends this far above its lowest point tells of too much training."""
FEW_CONVERSATIONS = 20
"""Below this many held-out conversations the numbers are rough."""

Tone = Literal["good", "flat", "bad", "open"]


class Verdict(NamedTuple):
    """One sentence, its tone, and what else the reader should know."""

    tone: Tone
    sentence: str
    notes: list[str]


def verdict(data: RunData) -> Verdict:
    """What came of the run: held-out loss and changed answers, or the honest word that nothing is known yet."""
    tone, loss = _loss_part(data)
    parts = [part for part in (loss, _answers_part(data)) if part]
    if not parts:
        return Verdict("open", "这次运行还没有可以看的结果.", _notes(data))
    sentence = ", ".join(parts) + "."
    if not data.is_finished:
        tone = "open"
        sentence = f"{_unfinished(data)}. {sentence}"
    return Verdict(tone, sentence, _notes(data))


def _loss_part(data: RunData) -> tuple[Tone, str]:
    """The half of the sentence about the loss; without a held-out loss it says that only training loss is known."""
    change = data.held_out()
    if change.before is not None and change.after is not None:
        tone, verb = _movement(change.before, change.after)
        before = f"{change.before_label}的" if change.before_label != "训练前" else ""
        after = f"{change.after_label}的" if change.after_label != "训练后" else ""
        numbers = f"从{before} {decimal(change.before)} {verb}{after} {decimal(change.after)}"
        if tone == "flat":
            numbers = f"几乎没变 ({decimal(change.before)} → {decimal(change.after)})"
        return tone, f"在没见过的对话上, 损失{numbers}"
    losses = [loss for _, loss in data.curve("step", "loss")]
    if len(losses) < 2:
        return "open", ""
    _, verb = _movement(losses[0], losses[-1])
    return "open", f"训练损失从 {decimal(losses[0])} {verb} {decimal(losses[-1])} (没有验证, 在新对话上怎样还不知道)"


def _movement(before: float, after: float) -> tuple[Tone, str]:
    """Tone and verb of a loss that went from ``before`` to ``after``."""
    if abs(after - before) <= FLAT_SHARE * abs(before):
        return "flat", "变到"
    return ("good", "降到") if after < before else ("bad", "升到")


def _answers_part(data: RunData) -> str:
    """The half of the sentence about the answers."""
    pairs = [answer for answer in data.answers() if answer.is_pair]
    if not pairs:
        return ""
    changed = sum(pair.changed for pair in pairs)
    if not changed:
        return f"{len(pairs)} 个问题的回答一个也没变"
    if changed == len(pairs) == 1:
        return "1 个问题的回答变了"
    if changed == len(pairs):
        return f"{len(pairs)} 个问题的回答都变了"
    return f"{len(pairs)} 个问题里 {changed} 个的回答变了"


def _unfinished(data: RunData) -> str:
    """How far a run came that was stopped."""
    total = f" (共 {data.planned_steps} 步)" if data.planned_steps else ""
    return f"这次运行没有跑完, 停在第 {data.last_step} 步{total}"


def _notes(data: RunData) -> list[str]:
    """What limits the verdict, each with what to do about it."""
    notes = [note(data) for note in (_stopped, _overtrained, _one_answer, _no_change, _few_held_out, _not_finite)]
    return [note for note in notes if note]


def warnings_of(data: RunData) -> list[str]:
    """What the run warned of and which of its files cannot be read; for its owner, not for a model card."""
    warned = [str(event.get("message") or event.get("text") or "") for event in data.of_kind("warning")]
    broken = [f"{name} 读不出来, 报告里少了它的那一部分." for name in data.broken]
    return [text for text in [*dict.fromkeys(warned), *broken] if text]


def _stopped(data: RunData) -> str:
    stops = data.of_kind("stop")
    if data.is_finished or not stops:
        return "" if data.is_finished else f"接着练: hantune resume {quoted(data.name)}"
    message, hint = stops[-1].get("message"), stops[-1].get("hint")
    return f"{message}." + (f" 改 {hint} 再练一次." if hint else "")


def _overtrained(data: RunData) -> str:
    points = data.curve("eval", "loss")
    if len(points) < 3:
        return ""
    step, lowest = min(points, key=lambda point: point[1])
    last = points[-1][1]
    if last <= lowest * (1 + RISE_SHARE):
        return ""
    found = f"验证损失在第 {step} 步最低 ({decimal(lowest)}), 之后回升到 {decimal(last)}: 练过头了, 模型开始背原文."
    if data.takes_best:
        return f"{found} 结果取的是第 {data.kept_step or step} 步."
    return f"{found} 设 train.final=best 可以取最低的一步; 也可以把 train.epochs 改小, 或多给一些数据."


def _one_answer(data: RunData) -> str:
    after = [answer.after for answer in data.answers() if answer.after is not None]
    if len(after) < 4 or len(set(after)) > len(after) // 4:
        return ""
    return "训练后不同的问题得到同样的回答: 学习率可能太大, 或者数据里的回答太单调."


def _no_change(data: RunData) -> str:
    pairs = [answer for answer in data.answers() if answer.is_pair]
    if not pairs or any(pair.changed for pair in pairs):
        return ""
    return "回答一个也没变: 步数太少, 或者 train.learning_rate 太小."


def _few_held_out(data: RunData) -> str:
    if not data.has_held_out:
        return "没有留出验证对话, 所以不知道模型在新对话上怎样. 设 data.val_share=0.05 可以留出一部分."
    held_out = number(data.manifest.get("val"))
    if held_out is None or held_out >= FEW_CONVERSATIONS:
        return ""
    return f"验证对话只有 {count(held_out)} 段, 验证得到的数字误差较大, 只看大的变化."


def _not_finite(data: RunData) -> str:
    bad = [event.get("step") for event in data.of_kind("step") if number(event.get("loss")) is None]
    return f"第 {bad[0]} 步的损失不是有限的数: 学习率可能太大." if bad else ""


def what_was_done(data: RunData) -> str:
    """Data, base, way of training, length and time in one sentence, from whatever of it is known."""
    conversations = data.num_samples
    rank = data.setting("adapter.rank")
    adapter = f"{adapter_name(data)} 适配器" + (f" (秩 {rank})" if rank else "")
    ways = {"lora": adapter, "none": "全部参数"}
    way = ways.get(str(data.setting("adapter.kind") or "lora"), "")
    base = base_name(data)
    work = (f"用 {count(conversations)} 段对话" if conversations else "") + "训练" + (f" {base} 的" if base else "")
    seconds = data.seconds()
    length = [f"{data.last_step} 步" if data.last_step else "", f"用时 {duration(seconds)}" if seconds else ""]
    return ", ".join(part for part in [f"{work} {way}".strip(), *length] if part) + "."


def adapter_name(data: RunData) -> str:
    """What kind of adapter was trained."""
    return "DoRA" if data.setting("adapter.use_dora") else "LoRA"


def base_name(data: RunData) -> str:
    """The base model's hub id or bare name; never a path on this machine."""
    told = inside(data.adapter, "base.id") or inside(data.adapter, "base.name")
    return str(told) if told else hub_id(data) or PureWindowsPath(str(data.setting("model.path") or "")).name


def hub_id(data: RunData) -> str:
    """The base's id on a hub (``owner/name``), or nothing when it is a folder or unknown."""
    told = inside(data.adapter, "base.id")
    if told:
        return str(told)
    path = str(data.setting("model.path") or "")
    owner, slash, name = path.partition("/")
    is_id = bool(slash and owner.strip(".~") and name) and not set(name) & set("/\\") and not set(owner) & set("\\:")
    return path if is_id and not Path(path).exists() else ""
