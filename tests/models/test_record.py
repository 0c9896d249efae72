"""hantune.json: what travels, and that it tells nobody's paths."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hantune.data.templates import get_template
from hantune.errors import ModelError
from hantune.models.fingerprint import fingerprint
from hantune.models.load import load_tokenizer
from hantune.models.record import FILE, base_entry, dress, read_record, stored_template


def test_a_template_comes_back_as_it_was(tiny_llama_folder: Path, tmp_path: Path) -> None:
    template = get_template("belle", system="你很友好。")
    dress(tmp_path, tokenizer=load_tokenizer(tiny_llama_folder), template=template, base=None, info={"data": {"n": 3}})
    record = read_record(tmp_path)
    assert record is not None
    assert stored_template(record) == template
    assert (record["base"], record["data"], record["format"]) == (None, {"n": 3}, 1)
    assert set(record["versions"]) == {"hantune", "torch", "transformers", "peft"}


def test_no_record_is_none(tmp_path: Path) -> None:
    assert read_record(tmp_path) is None


@pytest.mark.parametrize("text", ["{", "[1]", '{"format": 2}', '{"format": 1}', '{"format": 1, "template": {}}'])
def test_a_broken_or_newer_record_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text, encoding="utf-8")
    with pytest.raises(ModelError) as caught:
        read_record(tmp_path)
    assert caught.value.code == "adapter.bad-record"
    assert caught.value.place == str(tmp_path / FILE)


def test_a_local_base_is_known_by_name_fingerprint_and_way(tiny_llama_folder: Path) -> None:
    entry = base_entry(str(tiny_llama_folder), tiny_llama_folder.parent / "runs" / "one" / "adapter")
    assert entry == {
        "id": None,
        "revision": None,
        "name": "tiny-llama",
        "fingerprint": fingerprint(tiny_llama_folder),
        "hint": "../../../tiny-llama",
    }


def test_a_way_through_a_home_folder_is_not_kept(
    tiny_llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "home", lambda: tiny_llama_folder.parent)
    entry = base_entry(str(tiny_llama_folder), tmp_path / "adapter")
    assert entry["hint"] is None
    assert tiny_llama_folder.parent.name not in json.dumps(entry)


def test_a_base_in_the_hub_cache_is_known_by_its_id(tiny_llama_folder: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "models--org--name" / "snapshots" / "abc"
    snapshot.parent.mkdir(parents=True)
    snapshot.mkdir()
    for path in tiny_llama_folder.iterdir():
        (snapshot / path.name).write_bytes(path.read_bytes())
    entry = base_entry(str(snapshot), tmp_path / "adapter")
    assert (entry["id"], entry["revision"], entry["name"], entry["hint"]) == ("org/name", "abc", "name", None)
