"""``--engine vllm``: the command for the same flags. A stand-in takes the part of the program."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hantune.errors import HantuneError
from hantune.serve import vllm

SETTINGS: dict[str, Any] = {
    "name": "tiny", "base": None, "adapters": {}, "host": "127.0.0.1", "port": 8000, "load": None, "dtype": "auto",
    "max_batch": 32, "cors": [],
}  # fmt: skip


def words(model: Path, **changes: Any) -> list[str]:
    return vllm.command("vllm", str(model), **SETTINGS | changes)


def value(found: list[str], flag: str) -> str:
    return found[found.index(flag) + 1]


def test_a_whole_model(tiny_llama_folder: Path) -> None:
    found = words(tiny_llama_folder, dtype="float16", cors=["https://a.example"], load="4bit")
    assert found[:3] == ["vllm", "serve", str(tiny_llama_folder)]
    assert value(found, "--served-model-name") == "tiny"
    assert value(found, "--allowed-origins") == '["https://a.example"]'
    assert (value(found, "--dtype"), value(found, "--quantization")) == ("float16", "bitsandbytes")
    assert "--enable-lora" not in found
    assert json.loads(value(words(tiny_llama_folder), "--allowed-origins")) == []  # vLLM's own default is everybody


def test_adapters_keep_their_names(
    tiny_llama_folder: Path, tmp_path: Path, adapter_of: Callable[..., Path]
) -> None:
    own = adapter_of(tmp_path / "own", tiny_llama_folder, seed=1, template="llama2")
    other = adapter_of(tmp_path / "other", tiny_llama_folder, seed=2, template="llama2")
    found = words(own, name="own", adapters={"other": other})
    assert found[2] == str(tiny_llama_folder)
    assert value(found, "--served-model-name") == "own-base"
    assert found[found.index("--lora-modules") + 1 :] == [f"own={own}", f"other={other}"]
    assert (value(found, "--max-loras"), value(found, "--max-lora-rank")) == ("2", "8")
    assert value(found, "--chat-template") == str(own / "chat_template.jinja")


def test_two_templates_are_refused(tiny_llama_folder: Path, tmp_path: Path, adapter_of: Callable[..., Path]) -> None:
    own = adapter_of(tmp_path / "own", tiny_llama_folder, seed=1, template="llama2")
    other = adapter_of(tmp_path / "other", tiny_llama_folder, seed=2, template="alpaca")
    with pytest.raises(HantuneError, match=r"serve\.vllm-templates"):
        words(own, adapters={"other": other})


def test_eight_bits_are_refused(tiny_llama_folder: Path) -> None:
    with pytest.raises(HantuneError, match=r"serve\.vllm-load"):
        words(tiny_llama_folder, load="8bit")


def test_without_vllm_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HantuneError, match=r"serve\.no-vllm") as caught:
        vllm.find_vllm()
    assert "pip install vllm" in str(caught.value.hint)
    (tmp_path / "vllm").touch()
    assert vllm.find_vllm() == str(tmp_path / "vllm")


def test_the_key_is_not_among_the_words(tmp_path: Path) -> None:
    seen = str(tmp_path / "seen")
    script = f"import os; open({seen!r}, 'w').write(os.environ['VLLM_API_KEY']); raise SystemExit(7)"
    assert vllm.run([sys.executable, "-c", script], ["sk-secret"]) == 7
    assert (tmp_path / "seen").read_text(encoding="utf-8") == "sk-secret"
