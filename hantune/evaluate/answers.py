"""What a model answers to held-out questions, beside what the data answers."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Any

from hantune.data.types import Conversation, Message
from hantune.evaluate.metrics import measure
from hantune.infer.engine import Engine
from hantune.infer.sample import SamplingParams
from hantune.log import console


def evaluate_model(
    engine: Engine,
    conversations: Iterable[Conversation],
    *,
    max_samples: int | None = 100,
    max_tokens: int = 128,
    batch_size: int = 16,
    seed: int = 42,
) -> dict[str, Any]:
    """``{"metrics": {name: value}, "answers": [{prompt, reference, answer, finish_reason, source}]}``, greedy.

    Of each conversation the last answer is asked for, under all that came before; ``max_samples`` conversations are
    drawn by ``seed``, so that two models are asked the same.
    """
    asked = [question for item in conversations if (question := last_question(item)) is not None]
    if max_samples is not None and len(asked) > max_samples:
        chosen = random.Random(seed).sample(range(len(asked)), max_samples)
        asked = [asked[number] for number in sorted(chosen)]
    params = SamplingParams(max_tokens=max_tokens)
    fitted = [(engine.fit(messages, params), reference, source) for messages, reference, source in asked]
    asked = [item for item in fitted if engine.refusal(engine.prompt_ids(item[0])) is None]
    if len(asked) < len(fitted):
        console.warn(f"{len(fitted) - len(asked)} 个问题比模型的上下文还长, 没有问")
    with console.progress("生成回答", len(asked)) as bar:
        completions = engine.answer_many([item[0] for item in asked], params, batch_size, advance=bar.advance)
    references = [reference for _, reference, _ in asked]
    texts = [completion.text for completion in completions]
    return {
        "metrics": measure(texts, references, [completion.finish_reason for completion in completions]),
        "answers": [
            {
                "prompt": messages[-1].text,
                "reference": reference,
                "answer": completion.text,
                "finish_reason": completion.finish_reason,
                "source": source,
            }
            for (messages, reference, source), completion in zip(asked, completions, strict=True)
        ],
    }


def last_question(conversation: Conversation) -> tuple[Sequence[Message], str, str] | None:
    """The messages before the last answer, that answer, and the source; None where nothing is answered."""
    for position in range(len(conversation.messages) - 1, 0, -1):
        message = conversation.messages[position]
        if message.role == "assistant":
            return conversation.messages[:position], message.text, conversation.source
    return None
