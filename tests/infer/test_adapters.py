"""Several adapters over one base: each answers as if it were alone, and switching loads nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hantune.data.types import Message
from hantune.errors import ConfigError, ModelError, RefusedError
from hantune.infer.engine import Completion, Engine, open_engine
from hantune.infer.sample import SamplingParams
from hantune.models import prepack

ASKED = [Message(role="user", text="你叫什么名字？")]
GREEDY = SamplingParams(max_tokens=8)


def answer(engine: Engine, adapter: str | None) -> Completion:
    engine.use(adapter)
    lane = engine.lane(ASKED, GREEDY, adapter=adapter)
    return dict(engine.finish([(0, lane)], 1))[0]


@pytest.fixture
def folders(tmp_path: Path, tiny_llama_folder: Path, adapter_of: Callable[..., Path]) -> dict[str, Path]:
    """Two adapters of the tiny Llama, under different templates."""
    one = adapter_of(tmp_path / "one", tiny_llama_folder, seed=1, template="llama2")
    two = adapter_of(tmp_path / "two", tiny_llama_folder, seed=2, template="belle")
    return {"base": tiny_llama_folder, "one": one, "two": two}


def test_each_answers_as_if_it_were_alone(folders: dict[str, Path]) -> None:
    wanted: dict[str | None, Completion] = {
        name: open_engine(folders[name], base=folders["base"], device="cpu").answer(ASKED, GREEDY)
        for name in ("one", "two")
    }
    wanted[None] = open_engine(folders["base"], device="cpu").answer(ASKED, GREEDY)
    assert len({completion.ids for completion in wanted.values()}) == 3
    engine = open_engine(folders["base"], device="cpu")
    assert engine.adapters == ()
    engine.load_adapter("one", folders["one"])
    engine.load_adapter("two", folders["two"])
    assert engine.adapters == ("one", "two")
    assert engine.answer(ASKED, GREEDY) == wanted[None]  # loading does not put an adapter to work
    for name in ("one", None, "two", "one", "one", None):
        assert answer(engine, name) == wanted[name]
    opened = open_engine(folders["one"], base=folders["base"], device="cpu")
    opened.load_adapter("two", folders["two"])
    assert opened.adapters == ("default", "two")
    assert opened.answer(ASKED, GREEDY) == wanted["one"]
    assert answer(opened, "two") == wanted["two"]
    with opened.without_adapter():
        assert dict(opened.finish([(0, opened.lane(ASKED, GREEDY))], 1))[0] == wanted[None]
    assert answer(opened, "two") == wanted["two"]


def test_names_that_cannot_be(folders: dict[str, Path]) -> None:
    engine = open_engine(folders["base"], device="cpu")
    engine.load_adapter("one", folders["one"])
    for name in ("one", "", "a/b", "../x", "名字", "a" * 65):
        with pytest.raises(ConfigError) as caught:
            engine.load_adapter(name, folders["two"])
        assert caught.value.code == "infer.adapter-name"
    with pytest.raises(RefusedError) as refused:
        engine.prompt_ids(ASKED, "two")
    assert refused.value.code == "infer.no-adapter"
    assert "one" in refused.value.message


def test_an_adapter_with_another_tokenizer_is_refused(folders: dict[str, Path], byte_tokenizer_folder: Path) -> None:
    for path in byte_tokenizer_folder.iterdir():
        (folders["two"] / path.name).write_bytes(path.read_bytes())
    engine = open_engine(folders["base"], device="cpu")
    with pytest.raises(ModelError) as caught:
        engine.load_adapter("two", folders["two"])
    assert caught.value.code == "infer.other-tokenizer"
    assert engine.adapters == ()


def test_an_adapter_of_another_base_is_refused(folders: dict[str, Path]) -> None:
    record = json.loads((folders["two"] / "hantune.json").read_bytes())
    record["base"]["fingerprint"] = "0" * 64
    (folders["two"] / "hantune.json").write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(ModelError) as caught:
        open_engine(folders["base"], device="cpu").load_adapter("two", folders["two"])
    assert caught.value.code == "adapter.wrong-base"


def test_an_adapter_can_come_when_the_weights_are_laid_out(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepack, "pays", lambda dtype: torch.backends.mkldnn.is_available())
    wanted = open_engine(folders["two"], base=folders["base"], device="cpu").answer(ASKED, GREEDY)
    engine = open_engine(folders["base"], device="cpu")
    alone = engine.answer(ASKED, GREEDY)
    for name, folder in (("one", folders["one"]), ("two", folders["two"])):
        engine.load_adapter(name, folder)
        assert answer(engine, None) == alone
    assert answer(engine, "two") == wanted
    assert any(map(prepack.is_prepacked, engine.model.modules())) == torch.backends.mkldnn.is_available()
