"""What a run needs before its first step."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from hantune.data.prepare import prepare
from hantune.errors import ConfigError, DataError, ModelError, RefusedError
from hantune.log import console
from hantune.paths import RunFolder
from hantune.train.setup import (
    MATERIAL_WORDS,
    MAY_CHANGE,
    PLACES,
    changed_settings,
    check_same_material,
    fingerprints,
    open_material,
    open_or_prepare,
    settings_of,
    told,
    write_mask_sample,
)
from tests.runs import small_config, write_chats


def test_material_is_what_the_configuration_asks_for(tiny_llama_folder: Path, prepared: Path, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    settings = {"data__max_samples": 10, "data__max_turns": 1, "eval__max_samples": 3, "template__system": "请简短。"}
    material = open_material(small_config(tiny_llama_folder, prepared, run.root, **settings), run)
    assert (len(material.train), len(material.val)) == (10, 3)
    shown = [material.encoder.decode(list(material.train[number].ids)) for number in range(10)]
    assert all("请简短。" in text for text in shown)
    assert all(text.count("[INST]") == 1 for text in shown)
    assert material.check.kept == 24, "the check looks at all training data"
    assert not run.root.exists(), "prepared data need no folder"


def test_the_model_is_looked_at_before_the_data(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    run = RunFolder(tmp_path / "run")
    with pytest.raises(ModelError) as caught:
        open_material(small_config(tmp_path / "model", tmp_path / "no-such.jsonl", run.root), run)
    assert caught.value.code == "model.no-weights"
    assert not run.root.exists()


def test_what_an_attempt_left_is_not_taken_for_other_data(tiny_llama_folder: Path, tmp_path: Path) -> None:
    """The source was mended between two attempts: the second must not train on what the first prepared (trap A6)."""
    run, raw = RunFolder(tmp_path / "run"), tmp_path / "chats.jsonl"
    config = small_config(tiny_llama_folder, raw, run.root, data__val_share=0)
    write_chats(raw, 8)
    first = open_or_prepare(config, run)
    assert open_or_prepare(config, run).fingerprint == first.fingerprint
    write_chats(raw, 12)
    second = open_or_prepare(config, run)
    assert (first.count("train"), second.count("train")) == (8, 12)
    run.config.touch()
    run.events.touch()
    write_chats(raw, 16)
    assert open_or_prepare(config, run).count("train") == 12, "a run that has begun keeps its data"


def test_data_without_a_training_sample_are_refused(tiny_llama_folder: Path, tmp_path: Path) -> None:
    chats = write_chats(tmp_path / "chats.jsonl", 8)
    prepare([str(chats)], tmp_path / "all-val", val=[str(chats)])
    config = small_config(tiny_llama_folder, tmp_path / "all-val", tmp_path / "run")
    with pytest.raises(DataError) as caught:
        open_material(config, RunFolder(tmp_path / "run"))
    assert (caught.value.code, caught.value.place) == ("data.nothing-left", "data.path")
    prepare([str(chats)], tmp_path / "long", val_share=0)
    config = small_config(tiny_llama_folder, tmp_path / "long", tmp_path / "run", data__max_tokens=8)
    with pytest.raises(RefusedError, match="tokens.nothing-left"):
        open_material(config, RunFolder(tmp_path / "run"))


def test_only_the_same_material_goes_on(tiny_llama_folder: Path, prepared: Path, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    config = small_config(tiny_llama_folder, prepared, run.root)
    material = open_material(config, run)
    found = fingerprints(material)
    assert set(found) == set(MATERIAL_WORDS)
    check_same_material(material, found, run)
    for name, word in MATERIAL_WORDS.items():
        with pytest.raises(ConfigError, match=f"{word}  other -> ") as caught:
            check_same_material(material, {**found, name: "other"}, run)
        assert caught.value.code == "run.changed"
    other = open_material(small_config(tiny_llama_folder, prepared, run.root, template__name="belle"), run)
    assert fingerprints(other)["template"] != found["template"]


def test_only_settings_that_make_no_other_run_may_change(
    tiny_llama_folder: Path, prepared: Path, tmp_path: Path
) -> None:
    run = RunFolder(tmp_path / "run")
    config = small_config(tiny_llama_folder, prepared, run.root)
    recorded = settings_of(config)
    assert set(MAY_CHANGE) | set(PLACES) <= set(recorded)
    assert changed_settings(config, recorded, run) == {}
    for name in recorded:
        if name in MAY_CHANGE or name in PLACES:
            assert changed_settings(config, {**recorded, name: "other"}, run) == {name: ("other", recorded[name])}
        else:
            with pytest.raises(ConfigError, match=f"{name}  other -> ") as caught:
                changed_settings(config, {**recorded, name: "other"}, run)
            assert caught.value.code == "run.changed"
    both = {**recorded, "train.epochs": 9, "adapter.rank": 64, "train.threads": 7}
    with pytest.raises(ConfigError, match=r"(?s)adapter.rank  64 -> 4.*train.epochs  9 -> ") as caught:
        changed_settings(config, both, run)
    assert "train.threads" not in str(caught.value), "what may change is no reason to refuse"
    with pytest.raises(ConfigError, match="data.path"):
        changed_settings(small_config(tiny_llama_folder, tmp_path / "raw.jsonl", run.root), recorded, run)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ((8, 4), "8 -> 4"),
        (("None", 4), "空 -> 4"),
        (("a\nb", "a\nc"), "a\\nb -> a\\nc"),
        (("x" * 99 + "旧", "x" * 99 + "新"), "..." + "x" * 24 + "旧 -> ..." + "x" * 24 + "新"),
        (("短", "长" * 60), "短 -> " + "长" * 48 + "..."),
    ],
)
def test_a_change_is_told_from_where_it_begins(change: tuple[object, object], text: str) -> None:
    assert told(change) == text


def test_warnings_of_the_check_reach_the_user(tiny_llama_folder: Path, prepared: Path, tmp_path: Path) -> None:
    """Another template than the model's own is refused, and only warned about when it is named."""
    model, run = tmp_path / "model", RunFolder(tmp_path / "run")
    shutil.copytree(tiny_llama_folder, model)
    jinja = "{% for m in messages %}<s>{{ m['role'] }}: {{ m['content'] }}</s>{% endfor %}"
    (model / "chat_template.jinja").write_text(jinja, encoding="utf-8")
    console.warnings.clear()
    material = open_material(small_config(model, prepared, run.root, template__name="belle"), run)
    assert material.check.warnings == console.warnings
    assert any("template.mismatch" in warning for warning in console.warnings)
    write_mask_sample(material, run)
    tokens = json.loads((run.root / "mask_sample.json").read_bytes())["tokens"]
    assert {token["learn"] for token in tokens} == {True, False}
