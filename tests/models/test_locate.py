"""A user names one folder; base, tokenizer and template are found, and strangers are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from hantune.errors import ModelError, NetworkError, RunError
from hantune.log import console
from hantune.models.locate import locate


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_bytes()) | changes), encoding="utf-8")


def edit_base(adapter: Path, **changes: Any) -> None:
    record = json.loads((adapter / "hantune.json").read_bytes())
    edit(adapter / "hantune.json", base=record["base"] | changes)


def spoil_weights(base: Path) -> None:
    tensors = load_file(base / "model.safetensors")
    tensors["model.norm.weight"] += 1
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})


def test_a_plain_model_gets_the_template_of_its_family(tiny_llama_folder: Path, tiny_bloom_folder: Path) -> None:
    located = locate(tiny_llama_folder)
    assert (located.base, located.adapter, located.run) == (str(tiny_llama_folder), None, None)
    assert located.tokenizer_path == str(tiny_llama_folder)
    assert located.template.name == "llama2"
    assert locate(str(tiny_bloom_folder)).template.name == "chatml"  # its tokenizer has <|im_start|>


def test_a_model_with_a_chat_template_keeps_it(shop: Path) -> None:
    (shop / "base" / "chat_template.jinja").write_text("{{ messages[0]['content'] }}", encoding="utf-8")
    located = locate(shop / "base")
    assert (located.template.name, located.template.text) == ("model", "{{ messages[0]['content'] }}")


def test_an_adapter_finds_its_base_by_the_recorded_way(shop: Path) -> None:
    located = locate(shop / "adapter")
    assert located.base == str(shop / "base")
    assert located.adapter == shop / "adapter"
    assert located.tokenizer_path == str(shop / "adapter")
    assert located.template.name == "llama2"


def test_an_adapter_may_be_named_beside_its_base(shop: Path) -> None:
    (shop / "run").mkdir()
    shutil.copytree(shop / "adapter", shop / "run" / "adapter")
    assert locate(shop / "base", adapter=shop / "adapter").base == str(shop / "base")
    assert locate(shop / "base", adapter=shop / "run").adapter == shop / "run" / "adapter"


def test_a_moved_adapter_needs_the_base_told(shop: Path, tmp_path: Path) -> None:
    (shop / "adapter").rename(tmp_path / "moved")
    with pytest.raises(ModelError) as caught:
        locate(tmp_path / "moved")
    assert caught.value.code == "adapter.base-not-found"
    assert "base" in caught.value.message
    assert "--base" in str(caught.value.hint)
    assert locate(tmp_path / "moved", base=shop / "base").base == str(shop / "base")


@pytest.mark.parametrize("named", ["../base", "{shop}/base"])
def test_a_run_finds_the_base_of_its_config(shop: Path, named: str) -> None:
    edit_base(shop / "adapter", hint=None)
    run = shop / "run"
    run.mkdir()
    (shop / "adapter").rename(run / "adapter")
    (run / "config.yaml").write_text(f"model:\n  path: {named.format(shop=shop)}\n", encoding="utf-8")
    (run / "events.jsonl").write_bytes(b"")
    for path in (run, run / "adapter"):
        located = locate(path)
        assert Path(located.base).resolve() == (shop / "base").resolve()
        assert (located.adapter, located.run) == (run / "adapter", run)


def test_a_run_without_result_says_how_to_go_on(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("{}", encoding="utf-8")
    (tmp_path / "events.jsonl").write_bytes(b"")
    with pytest.raises(RunError) as caught:
        locate(tmp_path)
    assert caught.value.code == "run.no-result"
    assert "resume" in str(caught.value.hint)


@pytest.mark.parametrize("told", [True, False])
def test_another_base_is_refused(shop: Path, told: bool) -> None:
    spoil_weights(shop / "base")
    with pytest.raises(ModelError) as caught:
        locate(shop / "adapter", base=shop / "base" if told else None)
    assert caught.value.code == "adapter.wrong-base"
    assert str(shop / "base") in caught.value.message


def test_a_base_of_the_hub_that_cannot_be_reached(shop: Path) -> None:
    edit_base(shop / "adapter", id="org/name", hint=None)
    with pytest.raises(NetworkError, match=r"hub\.unreachable"):
        locate(shop / "adapter")
    edit_base(shop / "adapter", hint="../base")
    assert locate(shop / "adapter").base == str(shop / "base")


def test_an_adapter_of_another_tool_is_taken_with_a_warning(shop: Path) -> None:
    (shop / "adapter" / "hantune.json").unlink()
    (shop / "adapter" / "chat_template.jinja").unlink()
    edit(shop / "adapter" / "tokenizer_config.json", chat_template=None)
    edit(shop / "adapter" / "adapter_config.json", base_model_name_or_path=str(shop / "base"))
    console.warnings.clear()
    located = locate(shop / "adapter")
    assert (located.base, located.template.name) == (str(shop / "base"), "llama2")
    assert any("hantune.json" in text for text in console.warnings)


def test_an_empty_folder_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        locate(tmp_path)
    assert caught.value.code == "model.no-weights"


def test_a_model_given_as_adapter(shop: Path) -> None:
    with pytest.raises(ModelError) as caught:
        locate(shop / "base", adapter=shop / "base")
    assert caught.value.code == "adapter.not-adapter"
