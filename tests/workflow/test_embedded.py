"""The embedded base is taught from nothing, and only small in this test."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hantune.data.types import Message
from hantune.infer.engine import open_engine
from hantune.infer.sample import SamplingParams
from hantune.paths import RunFolder
from hantune.workflow import embedded
from hantune.workflow.embedded import BASE_SETTINGS, persona_dialogues, persona_questions, teach_base, unused_folder


def test_teaching_makes_a_model_that_chats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BASE_SETTINGS, "train.max_steps", 2)
    monkeypatch.setitem(BASE_SETTINGS, "train.memory_check", False)
    model = teach_base(tmp_path / "base", device="cpu")
    run = RunFolder(tmp_path / "base")
    assert model == run.model
    assert json.loads((run.prepared / "manifest.json").read_bytes())["train"] >= 400
    assert {path.name for path in tmp_path.iterdir()} == {"base"}, "all of it in one folder"
    engine = open_engine(model, device="cpu")
    assert engine.template.name == "llama2"
    assert engine.answer([Message(role="user", text="你好")], SamplingParams(max_tokens=2)).ids


def test_the_settings_are_known_ones() -> None:
    from hantune.config.io import as_overrides, load_config

    load_config(None, as_overrides({**BASE_SETTINGS, **embedded.PERSONA_SETTINGS}))


def test_the_questions_tell_what_was_taught() -> None:
    questions = persona_questions()
    taught = persona_dialogues().read_text(encoding="utf-8")
    assert {question["taught"] for question in questions} == {True, False}
    for question in questions:
        assert (question["expected"] is not None) == (f'"{question["prompt"]}"' in taught)
        assert question["expected"] is None or question["taught"]


def test_an_unused_folder_is_never_one_that_holds_something(tmp_path: Path) -> None:
    wanted = tmp_path / "demo"
    assert unused_folder(wanted) == wanted
    wanted.mkdir()
    assert unused_folder(wanted) == wanted
    (wanted / "x").touch()
    assert unused_folder(wanted) == tmp_path / "demo-2"
    (tmp_path / "demo-2" / "y").mkdir(parents=True)
    assert unused_folder(wanted) == tmp_path / "demo-3"
