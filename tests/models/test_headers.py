"""Headers and indexes: what is claimed is believed only when the file is as long, and names stay in their folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hantune.errors import ModelError
from hantune.models.headers import INDEX, WEIGHTS, TensorSpec, is_plain_name, read_header, read_index, weight_files

GOOD = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
TWIN = b'"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'


def write(path: Path, header: Any, data: bytes = b"\0" * 8, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def entry(**changes: Any) -> dict[str, Any]:
    return {"a": GOOD["a"] | changes}


def test_a_sound_header_gives_its_tensors(tmp_path: Path) -> None:
    assert read_header(write(tmp_path / WEIGHTS, GOOD)) == {"a": TensorSpec("F32", (2,))}


@pytest.mark.parametrize(
    "broken",
    [
        {"header": GOOD, "length": 2**60},
        {"header": GOOD, "length": 2**63},
        {"header": GOOD, "length": 10**9},
        {"header": b"{"},
        {"header": b"\xff\xfe"},
        {"header": b"[" * 100_000},
        {"header": []},
        {"header": {"a": 3}},
        {"header": entry(shape=[2**60, 2**60])},
        {"header": entry(shape=[-2])},
        {"header": entry(shape=["2"])},
        {"header": entry(shape=[3])},
        {"header": entry(dtype="F31")},
        {"header": entry(data_offsets=[4, 12])},
        {"header": entry(data_offsets=[0, 2**62])},
        {"header": entry(data_offsets=[-8, 0])},
        {"header": {**GOOD, "b": GOOD["a"]}},
        {"header": b"{%s,%s}" % (TWIN, TWIN)},
        {"header": GOOD, "data": b"\0" * 7},
        {"header": GOOD, "data": b"\0" * 9},
    ],
)  # fmt: skip
def test_a_header_that_lies_is_refused_at_once(tmp_path: Path, broken: dict[str, Any]) -> None:
    path = write(tmp_path / WEIGHTS, **broken)
    with pytest.raises(ModelError) as caught:
        read_header(path)
    assert caught.value.code == "model.torn-file"
    assert str(path) in str(caught.value.hint)


@pytest.mark.parametrize("name", ["../a", "/etc/a", "a/b", "..", "", "a\\b", "C:a", "a\0b", "a\nb"])
def test_an_index_stays_in_its_folder(tmp_path: Path, name: str) -> None:
    assert not is_plain_name(name)
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"a": name}}), encoding="utf-8")
    for read in (read_index, weight_files):
        with pytest.raises(ModelError) as caught:
            read(tmp_path)
        assert caught.value.code == "model.bad-index"
        assert "外面" in caught.value.message
