"""FlagAlpha: the template in the text is taken off again."""

from __future__ import annotations

import pytest

from tests.data.formats.records import ONE, TWO, read

LONG = "<s>Human: 问\n</s><s>Assistant: 答\n</s><s>Human: 再问\n</s><s>Assistant: 再答\n</s>"


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"text": LONG}, TWO),
        ({"text": "\n" + LONG + "\n"}, TWO),
        ({"text": "<s>System: 规矩\n</s>" + LONG}, [("s", "规矩"), *TWO]),
        ({"input": "<s>Human: 问\n</s><s>Assistant: ", "target": "答\n</s>"}, ONE),
        ({"input": "<s>Human: 问\n</s>", "target": "<s>Assistant: 答\n</s>"}, ONE),
        ({"text": "<s>Human: 问</s><s>Assistant: 写作 Human: 的答</s>"}, [("u", "问"), ("a", "写作 Human: 的答")]),
    ],
)
def test_dialogues(record: dict[str, str], expected: list[tuple[str, str]]) -> None:
    assert read("flagalpha", record) == [expected]


def test_faults_are_rejects() -> None:
    assert read("flagalpha", {"text": "Human: 问"}) == ["format.unknown-fields"]
    assert read("flagalpha", {"text": "<s>Human: 问\n</s>"}) == ["format.one-turn"]
    assert read("flagalpha", {"text": "<s>Assistant: 答\n</s>"}) == ["format.roles"]
