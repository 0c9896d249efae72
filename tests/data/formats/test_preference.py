"""preference: the chosen side in every way people write it, never the rejected one."""

from __future__ import annotations

from typing import Any

import pytest

from hantune.data.formats import FORMATS
from tests.data.formats.records import HUMAN, ONE, OPENAI, TWO, read, talk

BEFORE, AFTER = talk(*HUMAN[:3]), talk(*HUMAN[3:])
CHAT = talk(*OPENAI, key="role", text="content")
HH = "\n\nHuman: 问\n\nAssistant: 答\n\nHuman: 再问\n\nAssistant: 再答"


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"prompt": "问", "chosen": "答"}, ONE),
        ({"question": "问", "chosen": "答", "system": "规矩"}, [("s", "规矩"), *ONE]),
        ({"instruction": "问", "input": "料", "chosen": "答"}, [("u", "问\n料"), ("a", "答")]),
        ({"instruction": "再问", "history": [["问", "答"]], "chosen": "再答"}, TWO),
        ({"conversations": BEFORE, "chosen": AFTER[0]}, TWO),
        ({"prompt": CHAT[:3], "chosen": CHAT[3:]}, TWO),
        ({"prompt": "问", "chosen": CHAT}, TWO),
        ({"chosen": CHAT}, TWO),
        ({"chosen": HH}, TWO),
    ],
)
def test_the_chosen_side(record: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    found = read("preference", {**record, "rejected": "坏"})
    assert found == [expected]
    assert "坏" not in str(found)


def test_it_is_said_that_one_side_is_left_out() -> None:
    assert "只学 chosen" in str(FORMATS["preference"].matches({"chosen": "好", "rejected": "坏"}))


def test_faults_are_rejects() -> None:
    assert read("preference", {"prompt": "问", "chosen": "答"}) == ["format.unknown-fields"]
    assert read("preference", {"prompt": "问", "chosen": 3, "rejected": ""}) == ["format.not-text"]
    assert read("preference", {"chosen": "答", "rejected": ""}) == ["format.roles"]
    strange = [{"role": "tool", "content": "x"}]
    assert read("preference", {"prompt": strange, "chosen": "答", "rejected": ""}) == ["format.tool-turn"]
    strange = [{"role": "谁", "content": "x"}]
    assert read("preference", {"prompt": strange, "chosen": "答", "rejected": ""}) == ["format.roles"]
