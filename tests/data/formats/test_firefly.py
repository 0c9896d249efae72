"""firefly: pairs of human and assistant."""

from __future__ import annotations

from tests.data.formats.records import ONE, TWO, read


def test_pairs_become_turns() -> None:
    pairs = [{"human": "问", "assistant": "答"}, {"human": "再问", "assistant": "再答"}]
    assert read("firefly", {"conversation_id": 1, "conversation": pairs}) == [TWO]
    assert read("firefly", {"conversation": pairs[:1], "system": "规矩"}) == [[("s", "规矩"), *ONE]]


def test_faults_are_rejects() -> None:
    assert read("firefly", {"conversation": [{"human": "问"}]}) == ["format.unknown-fields"]
    assert read("firefly", {"conversation": []}) == ["format.one-turn"]
    assert read("firefly", {"conversation": [{"human": "问", "assistant": None}]}) == ["format.empty-answer"]
