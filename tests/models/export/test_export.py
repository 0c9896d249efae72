"""An exported folder is the model, says where answers end, and holds the template where converters look."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hantune.data.templates import get_template
from hantune.data.tokens import Encoder
from hantune.data.types import Message
from hantune.errors import HantuneError
from hantune.models import room
from hantune.models.export.export import export
from hantune.models.init import init_model
from hantune.models.load import load_model, load_tokenizer
from hantune.models.save import save_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama that was trained with ``belle``: its stop is a word, not a token."""
    root = tmp_path_factory.mktemp("export")
    init_model(root / "base")
    import torch

    loaded = load_model(root / "base", dtype=torch.float32)
    save_model(
        loaded,
        root / "model",
        base=None,
        tokenizer=load_tokenizer(root / "base"),
        template=get_template("belle"),
        info={},
    )
    (root / "model" / "LICENSE").write_text("mine", encoding="utf-8")
    return root / "model"


def test_vllm_gets_the_model_the_template_in_both_places_and_the_ends(model: Path, tmp_path: Path) -> None:
    report = export(str(model), "vllm", tmp_path / "out")
    out = tmp_path / "out"
    assert (out / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()
    assert (out / "LICENSE").read_text(encoding="utf-8") == "mine"
    text = (out / "chat_template.jinja").read_text(encoding="utf-8")
    assert text == json.loads((out / "tokenizer_config.json").read_bytes())["chat_template"]
    assert json.loads((out / "generation_config.json").read_bytes())["eos_token_id"] == [2]
    assert report["stop_ids"] == [2]
    assert not (out / "hantune.json").exists()
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(out)
    asked = [{"role": "user", "content": "你好"}]
    ids = tokenizer.apply_chat_template(asked, add_generation_prompt=True)["input_ids"]
    encoder = Encoder(load_tokenizer(model))
    assert ids == encoder.prompt(get_template("belle").render([Message(role="user", text="你好")], encoder.marks))
    assert AutoModelForCausalLM.from_pretrained(out).generation_config.eos_token_id in (2, [2])


def test_ollama_gets_weights_and_a_modelfile(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    report = export(str(model), "ollama", tmp_path / "小助手", kind="q4_0")
    assert report["files"] == ["Modelfile", "小助手-q4_0.gguf"]
    text = (tmp_path / "小助手" / "Modelfile").read_text(encoding="utf-8")
    assert text.startswith("FROM ./小助手-q4_0.gguf\n")
    assert 'PARAMETER stop "</s>"' in text
    assert "{{ .Content }}\n\nAssistant: " in text


def test_gguf_is_one_file_and_the_same_bytes_each_time(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    for name in ("a", "b"):
        report = export(str(model), "gguf", tmp_path / name / "m", kind="f16")
        assert report["files"] == ["m-f16.gguf"]
    assert (tmp_path / "a/m/m-f16.gguf").read_bytes() == (tmp_path / "b/m/m-f16.gguf").read_bytes()


@pytest.mark.parametrize(
    ("target", "kind", "code"),
    [("lmstudio", "q8_0", "export.unknown-target"), ("gguf", "q2_k", "export.unknown-type")],
)
def test_a_wrong_word_is_answered_with_the_right_ones(
    target: str, kind: str, code: str, model: Path, tmp_path: Path
) -> None:
    with pytest.raises(HantuneError) as caught:
        export(str(model), target, tmp_path / "out", kind=kind)
    assert caught.value.code == code


def test_an_adapter_is_merged_first(shop: Path, tmp_path: Path) -> None:
    with pytest.raises(HantuneError) as caught:
        export(str(shop / "adapter"), "vllm", tmp_path / "out")
    assert caught.value.code == "export.merge-first"
    assert "hantune model merge" in (caught.value.hint or "")


def test_nothing_is_written_over_and_nothing_begun_without_room(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(HantuneError) as caught:
        export(str(model), "vllm", tmp_path / "full")
    assert caught.value.code == "run.exists"
    monkeypatch.setattr(room, "SPARE_BYTES", 1 << 60)
    with pytest.raises(HantuneError) as caught:
        export(str(model), "vllm", tmp_path / "out")
    assert caught.value.code == "machine.no-room"
    assert not list(tmp_path.glob("*out*"))
