"""The fixed questions of a run: which they are, and what the figures of one round of answers are."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from hantune.data.types import Conversation, Message
from hantune.evaluate import metrics
from hantune.evaluate.memorised import Repeated
from hantune.infer.lane import Completion

if TYPE_CHECKING:
    from hantune.data.prepared import Prepared
    from hantune.data.store import TokenStore
    from hantune.data.tokens import Encoder

GENERAL = (
    "你好", "你是谁？", "今天心情不太好。", "推荐一道家常菜。",
    "周末去哪里玩好？", "帮我写一句生日祝福。", "为什么天是蓝的？", "晚上总是睡不着怎么办？",
)  # fmt: skip
"""What is asked where nothing else is said; four of them where held-out dialogues give the other four."""
NUM_HELD_OUT = 4
CANDIDATES = 64
"""Held-out dialogues looked at for questions of a fitting length."""
EXAMINED = 400
"""Learned examples that tell what the data's replies are like."""

Fits = Callable[[Sequence[Message]], bool]


@dataclass(frozen=True, kw_only=True)
class Probe:
    """One question; ``reference`` and ``source`` where it is from a held-out dialogue."""

    messages: tuple[Message, ...]
    reference: str | None = None
    source: str | None = None

    @property
    def prompt(self) -> str:
        """What the user says."""
        return self.messages[-1].text


def choose_probes(prompts: Sequence[str] | None, prepared: Prepared, *, seed: int, fits: Fits) -> tuple[Probe, ...]:
    """The questions of a run: ``prompts``, or (None) general ones and the first questions of held-out dialogues.

    The draw hangs on ``seed`` and the data alone. ``fits`` says whether a prompt may be asked; of the held-out ones
    only those that do are taken.
    """
    if prompts is not None:
        return tuple(_general(text) for text in prompts)
    drawn: dict[str, Probe] = {}
    for conversation in _drawn(prepared, seed):
        probe = _first_question(conversation)
        if probe and probe.prompt not in drawn and probe.prompt not in GENERAL and fits(probe.messages):
            drawn[probe.prompt] = probe
            if len(drawn) == NUM_HELD_OUT:
                break
    return (*(_general(text) for text in GENERAL[: len(GENERAL) - len(drawn)]), *drawn.values())


def _general(text: str) -> Probe:
    return Probe(messages=(Message(role="user", text=text),))


def _first_question(conversation: Conversation) -> Probe | None:
    """The first question with all that stands before it, and its answer."""
    for position, message in enumerate(conversation.messages):
        if message.role == "assistant":
            before = conversation.messages[:position]
            is_question = bool(before) and before[-1].role == "user" and bool(message.text.strip())
            return Probe(messages=before, reference=message.text, source=conversation.source) if is_question else None
    return None


def _drawn(prepared: Prepared, seed: int) -> Iterator[Conversation]:
    """Some held-out conversations in random order; only their rows are made into Python values."""
    from hantune.data.prepared import to_conversation

    count = prepared.count("val")
    numbers = random.Random(seed).sample(range(count), min(count, CANDIDATES))
    found: dict[int, Conversation] = {}
    first = 0
    for batch in prepared.batches("val"):
        for number in numbers:
            if 0 <= number - first < batch.num_rows:
                (row,) = batch.slice(number - first, 1).to_pylist()
                found[number] = to_conversation(row)
        first += batch.num_rows
        if len(found) == len(numbers):
            break
    yield from (found[number] for number in numbers)


@dataclass(frozen=True, kw_only=True)
class Style:
    """What learned replies are like: their lengths in tokens, the end included, and how much of them is Han."""

    lengths: tuple[int, ...]
    chinese_share: float

    def quantile(self, share: float) -> int:
        """So many tokens are enough for ``share`` of the replies; 0 without any."""
        return self.lengths[min(len(self.lengths) - 1, int(share * len(self.lengths)))] if self.lengths else 0

    def covered(self, tokens: int) -> float:
        """The share of replies that end within ``tokens`` tokens."""
        return sum(length <= tokens for length in self.lengths) / len(self.lengths) if self.lengths else 0.0


def learned_style(samples: TokenStore, encoder: Encoder) -> Style:
    """The style of what ``samples`` teach, from some hundred of them, evenly spread."""
    lengths: list[int] = []
    texts: list[str] = []
    for index in range(0, len(samples), max(1, len(samples) // EXAMINED)):
        example = samples[index]
        run: list[int] = []
        for token, learn in zip((*example.ids, 0), (*example.mask, 0), strict=True):
            if learn:
                run.append(token)
            elif run:
                lengths.append(len(run))
                texts.append(encoder.decode(run))
                run = []
    return Style(lengths=tuple(sorted(lengths)), chinese_share=metrics.chinese_share(texts))


@dataclass(frozen=True, kw_only=True)
class Figures:
    """One round of answers. Shares are of the answers; what needs held-out questions is None where there is none.

    ``memorised_held_out``: the share among held-out questions (who is asked what was taught may say what was taught);
    ``different``: how many answers differ from each other; ``score``: see ``score_of``, 0 to 100, higher is better.
    """

    count: int
    chinese_share: float
    stop_rate: float
    repetition: float
    empty_share: float
    memorised: float
    memorised_held_out: float | None
    different: int
    length_ratio: float | None
    score: float

    def as_dict(self) -> dict[str, Any]:
        """For events, rounded to four places."""
        return {name: round(value, 4) if isinstance(value, float) else value for name, value in asdict(self).items()}

    def times(self, share: float) -> str:
        """``6/8``: a share of the answers as a beginner reads it."""
        return f"{round(share * self.count)}/{self.count}"


def figures_of(
    probes: Sequence[Probe],
    completions: Sequence[Completion],
    repeated: Sequence[Repeated | None],
    *,
    expects_chinese: bool,
    judges_stops: bool,
) -> Figures:
    """The figures of one round."""
    texts = [completion.text for completion in completions]
    answered = [(text, probe.reference) for text, probe in zip(texts, probes, strict=True) if probe.reference]
    repeats = [found is not None for found, probe in zip(repeated, probes, strict=True) if probe.source]
    scores = [
        score_of(completion, probe.reference, expects_chinese=expects_chinese, judges_stops=judges_stops)
        for completion, probe in zip(completions, probes, strict=True)
    ]
    return Figures(
        count=len(texts),
        chinese_share=metrics.chinese_share(texts),
        stop_rate=metrics.stop_rate([completion.finish_reason for completion in completions]),
        repetition=metrics.repetition(texts),
        empty_share=_mean([not text.strip() for text in texts]),
        memorised=_mean([found is not None for found in repeated]),
        memorised_held_out=_mean(repeats) if repeats else None,
        different=len(set(texts)),
        length_ratio=metrics.length_ratio(*map(list, zip(*answered, strict=True))) if answered else None,
        score=_mean(scores),
    )


def score_of(completion: Completion, reference: str | None, *, expects_chinese: bool, judges_stops: bool) -> float:
    """One answer from 0 to 100: nothing for one that is empty, hangs in a loop or (if judged) does not end.

    Else 100 x (share of Han, where the data is Chinese) x (half, and half by ROUGE-L with the reference if any).
    """
    text = completion.text
    is_endless = judges_stops and completion.finish_reason != "stop"
    if is_endless or not text.strip() or metrics.repetition([text]):
        return 0.0
    language = metrics.chinese_share([text]) if expects_chinese else 1.0
    likeness = 1.0 if reference is None else (1 + metrics.rouge_l([text], [reference]) / 100) / 2
    return 100 * language * likeness


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
