"""``hantune init``, as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hantune.cli import main
from hantune.config.io import load_config, preset_names
from hantune.config.schema import RunConfig


def test_init_writes_a_complete_file_and_never_over_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "new" / "run.yaml"
    assert main(["init", str(path)]) == 0
    loaded = load_config(path)
    assert loaded.config == RunConfig()
    assert "默认" not in loaded.origins.values()
    before = path.read_bytes()
    assert main(["init", str(path), "--json"]) == 2
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["error"]["code"] == "config.exists"
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", preset_names())
def test_init_from_a_preset_with_values(tmp_path: Path, name: str) -> None:
    path = tmp_path / "run.yaml"
    assert main(["init", str(path), "--preset", name, "model.path=我的 模型", "data.path=d", "train.seed=0"]) == 0
    assert (
        load_config(path).config
        == load_config(None, ["model.path=我的 模型", "data.path=d", "train.seed=0"], preset=name).config
    )
    assert path.read_text(encoding="utf-8").startswith(f"# 预设 {name}: ")
    assert main(["config", "check", str(path)]) == 0


def test_init_with_an_unknown_preset_writes_nothing(tmp_path: Path) -> None:
    assert main(["init", str(tmp_path / "run.yaml"), "--preset", "nope"]) == 2
    assert not list(tmp_path.iterdir())
