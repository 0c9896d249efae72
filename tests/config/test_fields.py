"""The settings as values, and what is generated from them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from hantune.config.fields import sections, settings
from hantune.config.io import dump_config, preset_names, preset_text, write_value
from hantune.config.schema import RunConfig

ROOT = Path(__file__).resolve().parents[2]


def test_every_setting_is_described() -> None:
    for name, setting in settings().items():
        assert setting.sentence, name
        assert "\n" not in setting.sentence, name
        assert setting.name == name
        (setting.sentence + setting.description).encode("gbk")
    assert all(section.__doc__ for section in sections().values())


def test_descriptions() -> None:
    assert settings()["data.max_samples"].description == "整数 (≥ 1), 可以留空"
    assert settings()["data.val_share"].description == "数 (≥ 0, < 1)"
    assert settings()["train.batching"].description == "auto, sorted 或 packed"
    assert settings()["adapter.targets"].description == "文字列表 (至少 1 项) 或 all-linear"
    assert settings()["train.max_grad_norm"].default == 1.0


def test_defaults_are_those_of_the_schema() -> None:
    config = RunConfig()
    for name, setting in settings().items():
        assert getattr(getattr(config, setting.section), setting.key) == setting.default, name


def test_comments_are_the_sentences_in_the_order_of_the_schema() -> None:
    lines = dump_config(RunConfig(), comments=True).splitlines()
    pairs = [(lines[i], lines[i + 1]) for i in range(len(lines)) if lines[i].startswith("  #")]
    assert pairs == [(f"  # {s.sentence}", f"  {s.key}: {write_value(s.default)}") for s in settings().values()]


def test_the_reference_page_and_the_presets_are_current() -> None:
    spec = importlib.util.spec_from_file_location("make_config_reference", ROOT / "tools" / "make_config_reference.py")
    assert spec
    assert spec.loader
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    stale = [path.name for path, text in tool.wanted().items() if path.read_text(encoding="utf-8") != text]
    assert not stale, f"python tools/make_config_reference.py  ({', '.join(stale)})"


def test_presets_say_what_they_are_for() -> None:
    for name in preset_names():
        assert preset_text(name).startswith(f"# 预设 {name}: ")
        preset_text(name).encode("gbk")
