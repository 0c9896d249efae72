"""samsum: a dialogue to be summed up."""

from __future__ import annotations

from hantune.data.templates import get_template
from hantune.data.templates.base import Marks
from hantune.data.types import Message
from tests.data.formats.records import read


def test_the_template_writes_what_the_kit_wrote() -> None:
    ((question, answer),) = read("samsum", {"id": "1", "dialogue": "A: hi\r\nB: ho", "summary": "They greet."})
    assert (question, answer) == (("u", "A: hi\nB: ho"), ("a", "They greet."))
    messages = [Message(role="user", text=question[1]), Message(role="assistant", text=answer[1])]
    text = get_template("samsum").render(messages, Marks()).text
    assert text == "<s>Summarize this dialog:\nA: hi\nB: ho\n---\nSummary:\nThey greet.</s>"


def test_faults_are_rejects() -> None:
    assert read("samsum", {"dialogue": "A: hi"}) == ["format.unknown-fields"]
    assert read("samsum", {"dialogue": "A: hi", "summary": ""}) == ["format.empty-answer"]
