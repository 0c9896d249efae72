"""Run files in and out: precedence, origins, round trips, comments."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hantune.config.fields import settings
from hantune.config.io import as_overrides, dump_config, load_config, preset_names, with_values
from hantune.config.schema import RunConfig

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    [
        "null",
        "~",
        "true",
        "2e-4",
        "1_000",
        "2026-11-22",
        "a: b",
        "[a]",
        "#",
        "'",
        '"',
        "C:\\x",
        "- a",
        "\ufeff",
        "😀",
        "",
    ]
)
POSITIVE = st.integers(1, 10**6)
NUMBERS = st.floats(1e-12, 0.99)
SPECIAL: dict[str, st.SearchStrategy[Any]] = {
    "data.max_tokens": st.integers(8, 10**6),
    "train.keep_checkpoints": st.integers(2, 99),
    "train.device": st.sampled_from(["auto", "cuda"]),
    "adapter.kind": st.just("lora"),
    "adapter.layers_to_transform": st.just("last 8") | st.lists(st.integers(0, 99), min_size=1, max_size=3),
    "adapter.targets": st.just("all-linear") | st.lists(TEXTS, min_size=1, max_size=3),
    "log.trackers": st.lists(st.sampled_from(["tensorboard", "wandb", "swanlab", "trackio"]), max_size=2),
}
BY_TYPE: dict[type, st.SearchStrategy[Any]] = {
    bool: st.booleans(),
    int: POSITIVE,
    float: NUMBERS,
    str: TEXTS,
    tuple: st.lists(TEXTS, max_size=3),
    type(None): st.none(),
}


def _values(name: str) -> st.SearchStrategy[Any]:
    """Random valid values of one setting."""
    setting = settings()[name]
    if name in SPECIAL:
        return SPECIAL[name]
    if setting.choices:
        return st.sampled_from(setting.choices)
    return st.one_of(*(BY_TYPE[kind] for kind in sorted(setting.types, key=str)))


def _agree(values: dict[str, Any]) -> bool:
    """Whether settings that are valid one by one are so together (the schema's own rules are tested elsewhere)."""
    in_fp8 = values.get("model.load") == "fp8"
    if in_fp8 and (values.get("adapter.use_dora") or values.get("train.precision") == "fp16"):
        return False
    return values.get("train.best_by") != "probe" or values.get("eval.probes") != []


VALUES = st.fixed_dictionaries({}, optional={name: _values(name) for name in settings()}).filter(_agree)


def _config(values: dict[str, Any]) -> RunConfig:
    nested: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        section, _, key = name.partition(".")
        nested.setdefault(section, {})[key] = value
    return RunConfig.model_validate(nested)


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    return tmp_path / "run.yaml"


@given(values=VALUES, comments=st.booleans(), suffix=st.sampled_from([".yaml", ".json"]))
def test_what_is_dumped_loads_equal(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, Any], comments: bool, suffix: str
) -> None:
    config = _config(values)
    path = tmp_path_factory.getbasetemp() / f"law{suffix}"
    text = dump_config(config, comments=comments) if suffix == ".yaml" else config.model_dump_json(indent=2)
    path.write_text(text, encoding="utf-8", newline="\n")
    assert load_config(path).config == config


@given(values=VALUES)
def test_overrides_carry_every_value_unchanged(values: dict[str, Any]) -> None:
    loaded = load_config(None, as_overrides(values))
    assert loaded.config == _config(values)
    assert all(origin == ("命令行" if name in values else "默认") for name, origin in loaded.origins.items())


@given(values=VALUES)
def test_values_written_into_a_file_keep_its_comments(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, Any]
) -> None:
    text = dump_config(RunConfig(), comments=True)
    changed = with_values(text, values)
    path = tmp_path_factory.getbasetemp() / "written.yaml"
    path.write_text(changed, encoding="utf-8", newline="\n")
    assert load_config(path).config == _config(values)
    assert [line for line in changed.splitlines() if line.strip().startswith("# ")] == [
        line for line in text.splitlines() if line.strip().startswith("# ")
    ]


def test_a_new_key_goes_into_its_section_and_leaves_comments_where_they_are() -> None:
    text = "# head\ntrain:  # why\n  # batch\n  batch_size: 4  # four\n\n# next\neval:\n  every_steps: 3\n"
    assert with_values(text, {"train.seed": 7, "eval.probes": ("甲", "a, b"), "model.path": "m"}) == (
        "# head\ntrain:  # why\n  # batch\n  batch_size: 4  # four\n  seed: 7\n\n# next\neval:\n  every_steps: 3\n"
        "  probes: [甲, 'a, b']\nmodel:\n  path: m\n"
    )


def test_precedence_and_origins(run_file: Path) -> None:
    run_file.write_text("preset: tiny-cpu\ntrain:\n  epochs: 2\n  batch_size: 3\n", encoding="utf-8")
    loaded = load_config(run_file, ["train.epochs=1"])
    assert loaded.config.train.epochs == 1
    assert loaded.config.train.batch_size == 3
    assert loaded.config.train.precision == "float32"
    assert loaded.preset == "tiny-cpu"
    assert loaded.origins["train.epochs"] == "命令行"
    assert loaded.origins["train.batch_size"] == f"{run_file}:4"
    assert loaded.origins["train.precision"] == "预设 tiny-cpu"
    assert load_config(run_file, preset="cpu-lora").preset == "cpu-lora"
    assert load_config(run_file, ["preset=full-small"]).config.adapter.kind == "none"
    assert load_config(None).origins["train.epochs"] == "默认"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("train.seed=0", 0),
        ("adapter.dropout=0", 0.0),
        ("train.learning_rate=2e-4", 2e-4),
        ("train.activation_checkpointing=false", False),
        ("train.activation_checkpointing=auto", "auto"),
        ("train.batch_tokens=null", None),
        ("train.batch_tokens=~", None),
        ("train.max_grad_norm=null", None),
        ("log.trackers=[]", ()),
        ("adapter.targets=[q_proj, v_proj]", ("q_proj", "v_proj")),
        ("template.system=", None),
        ("template.system=你好: [世界] # 是", "你好: [世界] # 是"),
        ("template.system='null'", "null"),
        ('template.system="a\\nb"', "a\nb"),
        ("train.output_dir=2026-11-22", "2026-11-22"),
        ("train.output_dir=007", "007"),
        ("model.path=C:\\模型\\a b", "C:\\模型\\a b"),
        ("adapter.kind=none", "none"),
    ],
)
def test_an_override_keeps_its_type(run_file: Path, text: str, value: object) -> None:
    """Trap D13: 0, false and null given on the command line must win over the file."""
    run_file.write_text(
        "train: {seed: 9, batch_tokens: 5, max_grad_norm: 2, activation_checkpointing: true, output_dir: x}\n"
        "template: {system: 旧}\nadapter: {dropout: 0.5}\nlog: {trackers: [wandb]}\n",
        encoding="utf-8",
    )
    section, key = text.partition("=")[0].split(".")
    found = getattr(getattr(load_config(run_file, [text]).config, section), key)
    assert found == value
    assert type(found) is type(value)


def test_the_last_of_two_overrides_holds() -> None:
    assert load_config(None, ["train.seed=1", "train.seed=2"]).config.train.seed == 2


@pytest.mark.parametrize(
    "text",
    [
        "train:\n  learning_rate: 1e-4\n",
        "\ufefftrain:\n  learning_rate: 0.0001\n",
        "train:\r\n  learning_rate: 1E-4\r\ndata:\r\n",
        "# 只有一节\ntrain: {learning_rate: 1.0e-4}\neval:\n",
    ],
)
def test_ways_of_writing_the_same_file(run_file: Path, text: str) -> None:
    run_file.write_bytes(text.encode())
    assert load_config(run_file).config.train.learning_rate == 1e-4


def test_json_with_tabs_and_escaped_emoji(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(json.dumps({"eval": {"probes": ["😀", "a\tb"]}}, indent="\t"), encoding="utf-8")
    loaded = load_config(path)
    assert loaded.config.eval.probes == ("😀", "a\tb")
    assert loaded.origins["eval.probes"] == f"{path}:3"


@pytest.mark.parametrize("name", preset_names())
def test_presets_are_complete_and_differ_from_the_defaults(name: str) -> None:
    loaded = load_config(None, preset=name)
    assert set(loaded.origins.values()) == {f"预设 {name}"}
    assert loaded.config != RunConfig()


def test_the_resolved_configuration_repeats_itself(run_file: Path) -> None:
    loaded = load_config(None, ["preset=lora-7b-16g", "train.epochs=0.5"])
    run_file.write_text(dump_config(loaded.config), encoding="utf-8")
    again = load_config(run_file)
    assert again.config == loaded.config
    assert again.preset is None
