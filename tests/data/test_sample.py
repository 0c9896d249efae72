"""A sample is drawn evenly, the same every time, and larger ones contain smaller ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hantune.data.sample import sampled, split_sample
from hantune.data.sources import expand, inspect, read_rows
from hantune.data.types import Row
from hantune.errors import ConfigError

FINGERPRINT = "0123456789abcdef" * 4


def draw(sample: str, total: int = 1000) -> list[int]:
    return list(sampled(sample, FINGERPRINT, lambda: iter(range(total))))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("a.json#500", ("a.json", "#500")),
        ("a.json:0.2", ("a.json", ":0.2")),
        ("a.json:.2", ("a.json", ":.2")),
        ("hf:owner/name:0.2", ("hf:owner/name", ":0.2")),
        ("a.json", ("a.json", "")),
        ("a#b.json", ("a#b.json", "")),
        ("hf:owner/name", ("hf:owner/name", "")),
    ],
)
def test_what_is_a_sample(given: str, expected: tuple[str, str]) -> None:
    assert split_sample(given) == expected


@pytest.mark.parametrize("given", ["a.json#0", "a.json:0.0", "a.json:0", "a.json:1.5"])
def test_what_is_none(given: str) -> None:
    with pytest.raises(ConfigError) as caught:
        split_sample(given)
    assert caught.value.code == "source.bad-sample"


def test_counts_and_shares() -> None:
    assert len(draw("#500")) == 500
    assert draw("#5000") == draw(":1.0") == list(range(1000))
    assert 150 < len(draw(":0.2")) < 250
    assert draw("#100") == sorted(draw("#100"))
    assert set(draw("#100")) <= set(draw("#101"))
    assert set(draw(":0.2")) <= set(draw(":0.3"))
    assert max(draw("#100")) > 800  # not the first hundred


def test_a_sample_of_a_file(tmp_path: Path) -> None:
    lines = [json.dumps({"question": f"问{n}", "answer": "答"}) for n in range(100)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (place,) = expand(f"{tmp_path / 'a.jsonl'}#10")
    source = inspect(place)
    assert source.name == "a.jsonl#10"
    found = [row for row in read_rows(source) if isinstance(row, Row)]
    assert len(found) == 10
    assert all(row.source.startswith("a.jsonl:") for row in found)
    (tmp_path / "b.jsonl").write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        expand(f"{tmp_path}#10")
    assert caught.value.code == "source.bad-sample"
    assert [place.sample for place in expand(f"{tmp_path}:0.5")] == [":0.5", ":0.5"]
    (tmp_path / "a.jsonl#3").write_text("{}", encoding="utf-8")
    assert [place.sample for place in expand(str(tmp_path / "a.jsonl#3"))] == [""]
