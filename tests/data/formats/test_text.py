"""text: one message, every character of it learned under the template plain."""

from __future__ import annotations

import pytest

from hantune.data.formats import FORMATS
from hantune.data.templates import get_template
from hantune.data.templates.base import Marks
from hantune.data.types import Conversation, Row
from hantune.errors import DataError
from tests.data.formats.records import read


def test_everything_is_learned() -> None:
    (conversation,) = FORMATS["text"].read(Row(value={"text": "第一行\r\n第二行"}, source="a:1"))
    assert isinstance(conversation, Conversation)
    assert [(message.role, message.is_learned) for message in conversation.messages] == [("assistant", True)]
    rendered = get_template("plain").render(conversation.messages, Marks())
    assert rendered.text == "<s>第一行\n第二行</s>"
    assert [segment.text for segment in rendered.segments if segment.learn] == ["第一行\n第二行", "</s>"]


def test_other_templates_point_to_plain() -> None:
    (conversation,) = FORMATS["text"].read(Row(value={"text": "文字"}, source="a:1"))
    assert isinstance(conversation, Conversation)
    with pytest.raises(DataError) as caught:
        get_template("llama2").render(conversation.messages, Marks())
    assert caught.value.code == "template.roles"
    assert "template.name=plain" in str(caught.value.hint)


def test_faults_are_rejects() -> None:
    assert read("text", {"text": " \n"}) == ["format.empty-answer"]
    assert read("text", {"text": ["a"]}) == ["format.not-text"]
    assert read("text", "裸的文字") == ["format.unknown-fields"]
