"""The PREPARED folder gives back what was put in, whatever the batches it was written in."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

from hantune.data.prepared import MESSAGE, ROWS_PER_GROUP, SCHEMA, Columns, PartWriter, is_prepared, to_conversation
from hantune.data.types import Conversation, Message

MESSAGES = st.builds(
    Message,
    role=st.sampled_from(["system", "user", "assistant"]),
    text=st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
)
CONVERSATIONS = st.lists(
    st.builds(
        Conversation,
        messages=st.lists(MESSAGES, max_size=4).map(tuple),
        source=st.text("ab:1", max_size=4),
        id=st.text("0af", max_size=4),
    ),
    max_size=6,
)


@given(CONVERSATIONS)
def test_conversations_survive_a_table(conversations: list[Conversation]) -> None:
    columns = Columns()
    for conversation in conversations:
        columns.add(conversation, conversation.id)
    assert len(columns) == len(conversations)
    assert [to_conversation(row) for row in columns.take().to_pylist()] == conversations
    assert len(columns) == 0


def test_learn_is_stored_only_where_it_differs_from_the_role() -> None:
    columns = Columns()
    bits = (None, True, False)
    columns.add(Conversation(messages=tuple(Message(role="assistant", text="", learn=bit) for bit in bits)), "")
    columns.add(Conversation(messages=tuple(Message(role="user", text="", learn=bit) for bit in bits)), "")
    first, second = (to_conversation(row) for row in columns.take().to_pylist())
    assert [message.learn for message in first.messages] == [None, None, False]
    assert [message.learn for message in second.messages] == [None, True, None]


def test_row_groups_do_not_depend_on_the_batches(tmp_path: Path) -> None:
    whole = Conversation(messages=(Message(role="user", text="问"), Message(role="assistant", text="答")))
    rows = 2 * ROWS_PER_GROUP + 5
    for name, size in (("a", 1000), ("b", rows), ("c", ROWS_PER_GROUP)):
        writer, columns = PartWriter(tmp_path / name), Columns()
        for number in range(rows):
            columns.add(whole, str(number))
            if len(columns) == size:
                writer.write(columns.take())
        writer.write(columns.take())
        writer.close()
        assert writer.rows == rows
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == (tmp_path / "c").read_bytes()
    file = pq.ParquetFile(tmp_path / "a")
    assert [file.metadata.row_group(i).num_rows for i in range(3)] == [ROWS_PER_GROUP, ROWS_PER_GROUP, 5]
    assert file.schema_arrow.equals(SCHEMA)
    assert [field.name for field in MESSAGE] == ["role", "content", "learn"]


def test_a_half_written_folder_is_not_prepared(tmp_path: Path) -> None:
    for name in ("train.parquet", "val.parquet"):
        (tmp_path / name).touch()
    assert not is_prepared(tmp_path)
    assert not is_prepared(tmp_path / "nothing")
