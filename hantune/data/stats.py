"""What the data are like in figures: turns, lengths, language; with a tokenizer and template also in tokens."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from hantune.data.types import Conversation, Message, Rendered, Segment

if TYPE_CHECKING:
    from hantune.data.templates.base import Template
    from hantune.data.tokens import Encoder

HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
VISIBLE = re.compile(r"\S")
SHORT_ANSWER = 8
"""Characters below which an answer is short; a model tuned on such answers says little else."""
LIMITS = (512, 1024, 2048)
"""Values of ``data.max_tokens`` for which the share of cut answers is counted."""
BATCH = 256


class Readable(Protocol):
    """Prepared data, or a raw file read as if it were."""

    def conversations(self, part: Literal["train", "val"]) -> Iterator[Conversation]: ...


@dataclass
class Lengths:
    """Numbers of which the mean and quantiles are wanted; four bytes each."""

    values: array[int] = field(default_factory=lambda: array("i"))

    def add(self, values: Iterable[int]) -> None:
        self.values.extend(values)

    def summary(self) -> dict[str, float]:
        """{mean, median, p95, max, total}; zeros when there are none."""
        numbers = np.array(self.values) if self.values else np.zeros(1, int)
        return {
            "mean": round(float(numbers.mean()), 1),
            "median": float(np.median(numbers)),
            "p95": float(np.quantile(numbers, 0.95)),
            "max": int(numbers.max()),
            "total": int(numbers.sum()),
        }


@dataclass
class TokenTally:
    """Tokens of the rendered samples."""

    samples: Lengths = field(default_factory=Lengths)
    supervised: int = 0
    answers: int = 0
    cut: dict[int, int] = field(default_factory=lambda: dict.fromkeys(LIMITS, 0))
    text_tokens: int = 0
    text_characters: int = 0

    def add(self, conversations: Sequence[Conversation], encoder: Encoder, template: Template) -> None:
        """Count a batch."""
        rendered = [template.render(conversation.messages, encoder.marks) for conversation in conversations]
        for example in encoder.encode_many(rendered):
            mask = np.array(example.mask, np.int8)
            self.samples.add([len(mask)])
            self.supervised += int(mask.sum())
            ends = np.flatnonzero(np.diff(np.append(mask, 0)) == -1) + 1
            self.answers += len(ends)
            for limit in LIMITS:
                self.cut[limit] += int((ends > limit).sum())
        texts = [message.text for conversation in conversations for message in conversation.messages]
        chinese = [text for text in texts if len(HAN.findall(text)) * 2 > len(text)]
        if self.text_characters < 1_000_000:
            plain = [Rendered(segments=(Segment(text, False),)) for text in chinese]
            self.text_tokens += sum(len(example.ids) for example in encoder.encode_many(plain))
            self.text_characters += sum(map(len, chinese))

    def summary(self) -> dict[str, Any]:
        """{samples: {mean ...}, supervised_share, per_character, cut: {limit: share of answers}}."""
        samples = self.samples.summary()
        return {
            "samples": samples,
            "supervised_share": round(self.supervised / max(1, samples["total"]), 4),
            "per_character": round(self.text_tokens / max(1, self.text_characters), 3),
            "cut": {str(limit): round(count / max(1, self.answers), 4) for limit, count in self.cut.items()},
        }


def statistics(data: Readable, encoder: Encoder | None = None, template: Template | None = None) -> dict[str, Any]:
    """Figures over both parts: conversations, turns, characters of questions and answers, Chinese share, warnings;
    with an encoder and a template also ``tokens``.

    Raises: DataError ``template.roles``.
    """
    counts = {"train": 0, "val": 0}
    turns, questions, answers = Lengths(), Lengths(), Lengths()
    han = visible = with_system = 0
    tokens = TokenTally() if encoder and template else None
    for part, batch in _batches(data):
        counts[part] += len(batch)
        for conversation in batch:
            asked, answered = _texts(conversation.messages, "user"), _texts(conversation.messages, "assistant")
            turns.add([len(answered)])
            questions.add(map(len, asked))
            answers.add(map(len, answered))
            with_system += conversation.messages[0].role == "system"
            han += sum(len(HAN.findall(text)) for text in answered)
            visible += sum(len(VISIBLE.findall(text)) for text in answered)
        if tokens and encoder and template:
            tokens.add(batch, encoder, template)
    lengths = np.array(answers.values)
    result = {
        "conversations": sum(counts.values()),
        **counts,
        "with_system": with_system,
        "turns": turns.summary(),
        "question_characters": questions.summary(),
        "answer_characters": answers.summary(),
        "answer_histogram": histogram(lengths),
        "short_answers": round(float((lengths < SHORT_ANSWER).mean()), 4) if len(lengths) else 0.0,
        "chinese_share": round(han / max(1, visible), 4),
    }
    if tokens:
        result["tokens"] = tokens.summary()
    return {**result, "warnings": warnings(result)}


def _batches(data: Readable) -> Iterator[tuple[Literal["train", "val"], list[Conversation]]]:
    """The conversations of both parts, a batch at a time."""
    parts: tuple[Literal["train", "val"], ...] = ("train", "val")
    for part in parts:
        stream = data.conversations(part)
        while batch := list(islice(stream, BATCH)):
            yield part, batch


def _texts(messages: Sequence[Message], role: str) -> list[str]:
    return [message.text for message in messages if message.role == role]


def histogram(lengths: np.ndarray[Any, Any]) -> list[dict[str, int]]:
    """Counts by length, the classes doubling: 1-3, 4-7, 8-15 ... up to the longest."""
    classes = []
    low = 1
    while len(lengths) and low <= lengths.max():
        high = max(3, low * 2 - 1)
        classes.append({"from": low, "to": high, "count": int(((lengths >= low) & (lengths <= high)).sum())})
        low = high + 1
    return classes


def warnings(result: dict[str, Any]) -> list[str]:
    """What the figures warn of, in Chinese, each with what to do."""
    found = []
    if result["short_answers"] > 0.5:
        short = f"{result['short_answers']:.0%} 的回答不到 {SHORT_ANSWER} 个字"
        found.append(f"{short}, 练出来的模型会只说短句; 可以混入一些长回答的数据")
    if result["conversations"] and result["chinese_share"] < 0.3:
        found.append(f"回答里只有 {result['chinese_share']:.0%} 是汉字: 练出来的模型多半不用中文回答")
    cut = result.get("tokens", {}).get("cut", {})
    if cut and cut["1024"] > 0.05:
        found.append(f"max_tokens=1024 时有 {cut['1024']:.0%} 的回答会被截断, 训练时请调大 data.max_tokens")
    return found


def as_text(result: dict[str, Any]) -> str:
    """The figures as lines for people."""
    answer, question, turns = result["answer_characters"], result["question_characters"], result["turns"]
    lines = [
        f"对话    {result['conversations']} 段 (训练 {result['train']}, 验证 {result['val']})"
        + (f", 其中 {result['with_system']} 段有系统提示" if result["with_system"] else ""),
        f"轮数    平均 {turns['mean']}, 最多 {turns['max']}",
        f"问题    平均 {question['mean']} 字, 中位 {question['median']:.0f}, 95% 不超过 {question['p95']:.0f}",
        f"回答    平均 {answer['mean']} 字, 中位 {answer['median']:.0f}, 95% 不超过 {answer['p95']:.0f}, "
        f"最长 {answer['max']}",
        f"汉字    回答中占 {result['chinese_share']:.0%}",
        "",
        "回答的长度 (字)",
    ]
    most = max((item["count"] for item in result["answer_histogram"]), default=1)
    for item in result["answer_histogram"]:
        label = f"{item['from']}-{item['to']}"
        lines.append(f"  {label:>13} {'█' * round(30 * item['count'] / most) or '│'} {item['count']}")
    if "tokens" in result:
        lines += ["", *_token_lines(result["tokens"])]
    lines += [f"! {warning}" for warning in result["warnings"]]
    return "\n".join(lines)


def _token_lines(tokens: dict[str, Any]) -> list[str]:
    """The figures that need a tokenizer."""
    samples = tokens["samples"]
    cut = ", ".join(f"{limit} 时 {share:.1%}" for limit, share in tokens["cut"].items())
    return [
        f"词元    每条样本平均 {samples['mean']}, 中位 {samples['median']:.0f}, 95% 不超过 {samples['p95']:.0f}, "
        f"最长 {samples['max']}, 共 {samples['total']}",
        f"要学的  占 {tokens['supervised_share']:.0%} (只学回答)",
        f"中文    每个字 {tokens['per_character']:.2f} 个词元",
        f"截断    max_tokens 为 {cut} 的回答会被截断",
    ]
