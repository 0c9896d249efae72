"""What makes a training sample wrong, one small function a rule; proven by planted faults in tests/data/test_check.py.

To add a rule: a function that says in Chinese what is wrong with a sample (or None), a line in ``RULES``, a planted
fault, and its page in ``docs/troubleshooting/``.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from typing import Literal, NamedTuple

from hantune.data.templates.base import Template, first_difference
from hantune.data.tokens import Encoder
from hantune.data.types import Example, Message, Rendered

Level = Literal["refuse", "warn"]


class Sample(NamedTuple):
    """What a rule looks at: a conversation that became an example."""

    example: Example
    messages: tuple[Message, ...]
    rendered: Rendered
    template: Template
    encoder: Encoder


class Rule(NamedTuple):
    """A check of one sample: ``find`` says in Chinese what is wrong, or None."""

    code: str
    level: Level
    find: Callable[[Sample], str | None]
    hint: str


def prompt_not_prefix(sample: Sample) -> str | None:
    """Law 1: the ids of every serving prompt are the first ids of the training text."""
    for index, message in enumerate(sample.messages):
        if message.role != "assistant" or index == 0:
            continue
        prompt = sample.template.render(sample.messages[:index], sample.encoder.marks)
        if prompt.segments == sample.rendered.segments[: len(prompt.segments)]:
            continue  # equal segments are equal ids: each is encoded apart
        served = sample.encoder.prompt(prompt)
        at = first_difference(served, sample.example.ids)
        is_beyond_cut = sample.example.is_cut and at == len(sample.example.ids)
        if at < len(served) and not is_beyond_cut:
            shown = sample.encoder.decode(served[at : at + 8])
            return f"第 {index + 1} 条消息前, 服务时的提示从第 {at + 1} 个词元 ({shown!r}) 起和训练文本不同"
    return None


def terminator_not_learned(sample: Sample) -> str | None:
    """Trap B1: an answer whose end is not learned makes a model that never stops."""
    example, encoder = sample.example, sample.encoder
    stop_ids = set(encoder.stop_ids(sample.rendered.stops))
    runs = groupby(zip(example.ids, example.mask, strict=True), key=lambda pair: pair[1])
    answers = [[token for token, _ in run] for learn, run in runs if learn]
    for number, ids in enumerate(answers[: -1 if example.is_cut else None]):
        if ids[-1] in stop_ids or encoder.decode(ids).endswith(sample.rendered.stops or ("\0",)):
            continue
        return f"第 {number + 1} 个回答以 {encoder.decode(ids)[-8:]!r} 结束, 没有学到结束符: 模型会停不下来"
    return None


def pad_learned(sample: Sample) -> str | None:
    """The pad token among learned tokens: it is also the terminator, or it stands in the answer."""
    if not sample.encoder.has_pad:
        return None
    pad = sample.encoder.pad_id
    if any(learn and token == pad for token, learn in zip(sample.example.ids, sample.example.mask, strict=True)):
        return f"填充符 (id {pad}) 在要学的词元里"
    return None


def control_not_token(sample: Sample) -> str | None:
    """A control text that this tokenizer spells with several tokens."""
    controls = {segment.text for segment in sample.rendered.segments if segment.control}
    several = sorted(text for text in controls if not sample.encoder.is_control(text))
    return f"{' '.join(several)} 在这个分词器里不是一个词元, 会拆成好几个" if several else None


def unknown_token(sample: Sample) -> str | None:
    """Text that the tokenizer cannot spell."""
    count = sample.example.ids.count(sample.encoder.unknown_id) if sample.encoder.unknown_id is not None else 0
    return f"有 {count} 个词元是未知词, 原文在这里丢失" if count else None


RULES = (
    Rule("mask.prompt-not-prefix", "refuse", prompt_not_prefix, "换一个模板, 例如 template.name=chatml"),
    Rule("mask.terminator-not-learned", "refuse", terminator_not_learned, "换一个模板, 或给分词器补上 eos_token"),
    Rule("mask.pad-learned", "refuse", pad_learned, "在 tokenizer_config.json 里把 pad_token 设成另一个词元"),
    Rule("template.control-not-token", "warn", control_not_token, "换一个模板, 例如 template.name=belle"),
    Rule("mask.unknown-token", "warn", unknown_token, "换一个带字节回退的分词器, 或扩充词表"),
)
