"""Conversations for the laws of templates and tokens: strategies and small helpers."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from hantune.data.tokens import Encoder
from hantune.data.types import Conversation, Message

FRAGMENTS = (
    "你好", "习近龘靐", "。", "，", "hello", "a", "3.14", " ", "  ", "\n", "\n\n", "\t", "😀", "👨‍👩‍👧", "é", "\u3000",
    "</s>", "<s>", "<|im_end|>", "<|im_start|>assistant\n", "<pad>", "<unk>", "[/INST]", "[INST]", "<</SYS>>", "Human:",
    "### Response:", "▁", "<0x0A>", "{{ x }}", "{% if %}", '"', "\\n", "问题\n回答",
)  # fmt: skip
"""Han, emoji, blanks, and whatever a user types to forge a turn or to upset a tokenizer or a template."""

texts = st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=3), min_size=1, max_size=6).map("".join)
clean_texts = texts.map(lambda text: re.sub("[\0\ud800-\udfff\U00100000-\U0010ffff]", "", text))
stripped_texts = clean_texts.map(str.strip).filter(bool)
plain_texts = st.lists(
    st.sampled_from(["你好", "习龘", "。", "，", "hello", "a b", "3.14", "😀", "\n", "？", "[", "x"]),
    min_size=1,
    max_size=6,
).map(lambda parts: "".join(parts).strip() or "好")
"""Texts without control tokens and outer blanks: what law 3 speaks of."""


def conversations(contents: Any, *, max_turns: int = 4, prompt: bool = False, learn: bool = False) -> Any:
    """Messages of 1 to ``max_turns`` turns with an optional system message; some answers not learned if ``learn``."""
    flags = st.sampled_from([None, None, False]) if learn else st.none()
    turns = st.lists(st.tuples(contents, contents, flags), min_size=1, max_size=max_turns)
    return st.builds(_messages, st.none() | contents, turns, st.just(prompt))


def _messages(system: str | None, turns: Sequence[tuple[str, str, bool | None]], prompt: bool) -> list[Message]:
    messages = [] if system is None else [Message(role="system", text=system)]
    for question, answer, learn in turns:
        messages += [Message(role="user", text=question), Message(role="assistant", text=answer, learn=learn)]
    return messages[:-1] if prompt else messages


def talk(*contents: str, system: str | None = None, learn: Sequence[bool | None] = ()) -> list[Message]:
    """Alternating user and assistant messages."""
    answers = iter(learn)
    messages = [] if system is None else [Message(role="system", text=system)]
    for number, text in enumerate(contents):
        role = "assistant" if number % 2 else "user"
        messages.append(Message(role=role, text=text, learn=next(answers, None) if number % 2 else None))
    return messages


def conversation(*contents: str, source: str = "a.json:1", **settings: Any) -> Conversation:
    """The same as a Conversation."""
    return Conversation(messages=tuple(talk(*contents, **settings)), source=source)


def as_dicts(messages: Sequence[Message]) -> list[dict[str, str]]:
    """What ``apply_chat_template`` takes."""
    return [{"role": message.role, "content": message.text} for message in messages]


def changed(tokenizer: Any, change: Any) -> Any:
    """A copy of a fast tokenizer whose ``tokenizer.json`` went through ``change``."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    plan = json.loads(tokenizer.backend_tokenizer.to_str())
    change(plan)
    names = {key: value for key, value in tokenizer.special_tokens_map.items() if isinstance(value, str)}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(plan)), **names)


def encoder_of(tokenizer: Any) -> Encoder:
    """The encoder of a session's tokenizer, made once: the real Llama 2 takes a second."""
    if id(tokenizer) not in _ENCODERS:
        _ENCODERS[id(tokenizer)] = Encoder(tokenizer)
    return _ENCODERS[id(tokenizer)]


_ENCODERS: dict[int, Encoder] = {}
