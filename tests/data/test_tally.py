"""Tallies of batches: answers where a loop finds them, duplicates as a set counts them, portions that add up."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from hantune.data.prepared import Columns
from hantune.data.split import content_id
from hantune.data.tally import Texts, TextTally, answers_of, duplicates, keys_of
from hantune.data.types import Conversation, Message
from tests.data.dialogues import clean_texts, conversations

masks = st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=9), max_size=5)


@given(masks)
def test_answers_are_the_runs_of_each_sample(samples: list[list[int]]) -> None:
    wanted = []
    for sample in samples:
        for end in range(1, len(sample) + 1):
            if sample[end - 1] and (end == len(sample) or not sample[end]):
                start = max((place for place in range(end) if not sample[place]), default=-1) + 1
                wanted.append((end - start, end))
    found = answers_of(np.array(sum(samples, []), np.uint8), np.array([len(sample) for sample in samples], np.int64))
    assert list(zip(found.lengths.tolist(), found.ends.tolist(), strict=True)) == wanted
    assert [int(sum(samples, [])[place]) for place in found.lasts] == [1] * len(wanted)


@given(st.lists(st.sampled_from("abcdef"), max_size=20))
def test_duplicates(letters: list[str]) -> None:
    said = [Conversation(messages=(Message(role="user", text=letter),)) for letter in letters]
    ids = pa.array(map(content_id, said), pa.string())
    counts = Counter(letters)
    found = duplicates([keys_of(ids.slice(0, 3)), keys_of(ids.slice(3))])
    assert found["count"] == len(letters) - len(counts)
    assert found["groups"] == sum(number > 1 for number in counts.values())
    assert found["most"] == max(counts.values(), default=0)


def batch_of(talks: list[list[Message]]) -> pa.RecordBatch:
    columns = Columns()
    for messages in talks:
        conversation = Conversation(messages=tuple(messages), source="a.json:1")
        columns.add(conversation, content_id(conversation))
    return columns.take()


@given(st.lists(conversations(clean_texts, max_turns=3), min_size=1, max_size=6), st.integers(0, 6))
def test_texts_and_portions(talks: list[list[Message]], at: int) -> None:
    batch = batch_of(talks)
    texts = Texts.of(batch)
    said = [message for messages in talks for message in messages]
    assert texts.sizes.tolist() == [len(message.text) for message in said]
    assert texts.is_answer.tolist() == [message.role == "assistant" for message in said]
    assert texts.by_conversation(texts.sizes).tolist() == [sum(len(m.text) for m in messages) for messages in talks]
    whole, parts = TextTally(), TextTally()
    whole.add(batch, texts)
    for portion in (batch.slice(0, at), batch.slice(at)):
        tally = TextTally()
        tally.add(portion, Texts.of(portion))
        parts.merge(tally)
    assert parts.summary() == whole.summary()
    assert whole.with_system == sum(messages[0].role == "system" for messages in talks)
    turns = [sum(message.role == "assistant" for message in messages) for messages in talks]
    assert whole.summary()["turns"]["total"] == sum(turns)
