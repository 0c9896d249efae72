"""The flags of ``run_finetune.sh`` are meant: each is shown by what it changes. A flag beats the file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hantune.cli import main
from hantune.config.schema import RunConfig
from hantune.data.prepare import prepare
from hantune.errors import ConfigError, DataError, NetworkError
from hantune.log import console
from hantune.paths import RunFolder
from hantune.workflow import demo as demo_module
from hantune.workflow import finetune as finetune_module
from hantune.workflow import flags as flags_module
from hantune.workflow.finetune import Job
from hantune.workflow.flags import Flags, perform, prepared_earlier, with_file

KIT = {
    "model_args": {"model_name_or_path": "kit-model", "use_local_model": True},
    "data_args": {"dataset_name": "kit.jsonl", "max_samples": 7, "max_turns": 3},
    "training_args": {
        "output_dir": "kit-out", "learning_rate": 1e-3, "num_train_epochs": 2, "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 5, "fp16": True,
    },
    "lora_args": {"r": 2},
}  # fmt: skip


class Reached(Exception):
    """The job came to the point where it would start."""


@dataclass
class Asked:
    """What the job was asked to do, and its resolved configuration."""

    job: Job | None = None
    config: RunConfig | None = None
    taught_on: str = ""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tiny_llama_folder: Path) -> Asked:
    """Jobs stop where they would train, and say what they would do; no base is taught."""
    found = Asked()

    def stop(job: Job) -> Any:
        found.job = job
        run = RunFolder(job.output)
        found.config = finetune_module._config(job, run, finetune_module._prepared_folder(job, run))
        raise Reached

    def teach(out: Path, *, device: str = "auto") -> Path:
        found.taught_on = device
        return tiny_llama_folder

    for module in (flags_module, demo_module):
        monkeypatch.setattr(module, "finetune", stop)
        monkeypatch.setattr(module, "teach_base", teach)
    return found


def ask(asked: Asked, *words: object) -> RunConfig:
    """The configuration that the command line leads to."""
    code = main(["finetune", *map(str, words), "--quiet"])
    assert asked.config is not None, f"exit code {code}"
    return asked.config


@pytest.fixture
def given(tiny_llama_folder: Path, chats: Path, tmp_path: Path) -> list[object]:
    """The flags every job needs."""
    return [
        "--model_name_or_path", tiny_llama_folder, "--dataset_name", chats, "--output_dir", tmp_path / "out",
    ]  # fmt: skip


def manifest(config: RunConfig) -> dict[str, Any]:
    return dict(json.loads((Path(config.data.path) / "manifest.json").read_bytes()))


# ---- each flag ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flag", "value", "section", "key", "expected"),
    [
        ("--learning_rate", "3e-4", "train", "learning_rate", 3e-4),
        ("--num_train_epochs", "0.5", "train", "epochs", 0.5),
        ("--per_device_train_batch_size", "3", "train", "batch_size", 3),
        ("--gradient_accumulation_steps", "6", "train", "accumulation_steps", 6),
    ],
)
def test_training_flags_reach_the_configuration(
    asked: Asked, given: list[object], flag: str, value: str, section: str, key: str, expected: float
) -> None:
    assert getattr(getattr(RunConfig(), section), key) != expected
    assert getattr(getattr(ask(asked, *given, flag, value), section), key) == expected


def test_use_cpu(asked: Asked, given: list[object]) -> None:
    assert ask(asked, *given).train.device == "auto"
    assert ask(asked, *given, "--use_cpu").train.device == "cpu"


def test_use_cpu_is_meant_for_the_embedded_base_too(asked: Asked, tmp_path: Path) -> None:
    assert ask(asked, "--output_dir", tmp_path / "a", "--use_cpu").train.device == asked.taught_on == "cpu"
    assert ask(asked, "--output_dir", tmp_path / "b").train.device == asked.taught_on == "auto"


def test_max_samples_and_max_turns(asked: Asked, given: list[object], tmp_path: Path) -> None:
    config = ask(asked, *given, "--max_samples", 5, "--max_turns", 1)
    assert (config.data.max_samples, config.data.max_turns) == (5, 1)
    assert manifest(config)["train"] == 5
    assert manifest(config)["flags"]["max_turns"] == 1
    assert manifest(ask(asked, *given[:-1], tmp_path / "whole"))["train"] > 5


def test_model_dataset_and_output(asked: Asked, given: list[object], tiny_llama_folder: Path, tmp_path: Path) -> None:
    config = ask(asked, *given)
    assert config.model.path == str(tiny_llama_folder)
    assert config.train.output_dir == str(tmp_path / "out")
    assert manifest(config)["sources"][0]["path"] == "chats.jsonl"


def test_local_model(chats: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["finetune", "--model_name_or_path", "nobody/nothing", "--dataset_name", str(chats), "--json"]
    assert main([*words, "--local_model"]) == 3
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "model.not-found"


def test_without_a_dataset_the_embedded_dialogues_are_used(asked: Asked, tmp_path: Path) -> None:
    config = ask(asked, "--model_name_or_path", "m", "--output_dir", tmp_path / "out")
    assert manifest(config)["sources"][0]["path"].endswith("persona.jsonl")
    assert (config.model.path, asked.taught_on) == ("m", "")


def test_without_a_model_a_small_one_is_taught(
    asked: Asked, chats: Path, tmp_path: Path, tiny_llama_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = ask(asked, "--dataset_name", chats, "--output_dir", tmp_path / "out")
    assert (config.model.path, asked.taught_on) == (str(tiny_llama_folder), "auto")
    assert "没有指定底座" in capsys.readouterr().err


@pytest.mark.parametrize("dataset", ["没有.jsonl", "lccc-base"])
def test_a_missing_dataset_is_told_before_a_base_is_taught(
    asked: Asked, dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HANTUNE_HOME", str(tmp_path))
    with pytest.raises((DataError, NetworkError)):
        perform(Flags(dataset=dataset, output=tmp_path / "out"))
    assert asked.taught_on == ""


@pytest.mark.parametrize("flag", ["--learning_rate", "--num_train_epochs", "--max_samples"])
def test_zero_is_refused_and_not_taken_for_nothing(
    asked: Asked, given: list[object], flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Trap D13: ``x or default`` loses 0."""
    assert main(["finetune", *map(str, given), flag, "0", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] in {"config.bad-value", "cli.usage"}
    assert asked.config is None


# ---- data prepared earlier ------------------------------------------------------------------------------------------


def test_skip_data_prep_takes_what_lies_there(asked: Asked, given: list[object], tmp_path: Path) -> None:
    first = ask(asked, *given, "--max_samples", 6)
    before = manifest(first)
    second = ask(asked, *given[:2], *given[4:], "--skip_data_prep", "--max_samples", 4)
    assert second.data.path == first.data.path == str(tmp_path / "out" / "prepared")
    assert manifest(second) == before
    assert second.data.max_samples == 4, "still fewer, by the seed"


def test_skip_data_prep_takes_a_prepared_dataset(asked: Asked, chats: Path, tmp_path: Path) -> None:
    prepare([str(chats)], tmp_path / "data")
    config = ask(asked, "--dataset_name", tmp_path / "data", "--skip_data_prep", "--output_dir", tmp_path / "out")
    assert config.data.path == str(tmp_path / "data")


def test_skip_data_prep_after_the_bare_way(asked: Asked, tmp_path: Path) -> None:
    first = ask(asked, "--output_dir", tmp_path / "out")
    again = ask(asked, "--output_dir", tmp_path / "out", "--skip_data_prep")
    assert again.data.path == first.data.path == str(tmp_path / "out" / "persona" / "prepared")
    assert again.train.learning_rate == demo_module.PERSONA_SETTINGS["train.learning_rate"]


def test_nothing_prepared_is_refused_before_a_base_is_taught(asked: Asked, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        perform(Flags(skip_data_prep=True, output=tmp_path / "out"))
    assert caught.value.code == "finetune.nothing-prepared"
    assert asked.taught_on == ""
    with pytest.raises(ConfigError):
        prepared_earlier(str(tmp_path), tmp_path / "out")


# ---- a configuration file -------------------------------------------------------------------------------------------


@pytest.fixture
def kit(tmp_path: Path) -> Path:
    path = tmp_path / "finetune_config.json"
    path.write_text(json.dumps(KIT), encoding="utf-8")
    return path


def test_the_kit_file_speaks_where_no_flag_does(kit: Path) -> None:
    flags = with_file(Flags(config_file=kit))
    assert flags.config_file is None, "everything is in the flags now"
    assert (flags.model, flags.dataset, flags.output) == ("kit-model", "kit.jsonl", Path("kit-out"))
    assert (flags.max_samples, flags.max_turns, flags.local_model) == (7, 3, True)
    assert flags.overrides["train.accumulation_steps"] == 5
    assert flags.overrides["adapter.rank"] == 2


def test_every_flag_beats_the_kit_file(asked: Asked, given: list[object], kit: Path, tmp_path: Path) -> None:
    typed = ["--learning_rate", "2e-4", "--num_train_epochs", "1", "--per_device_train_batch_size", "1",
             "--gradient_accumulation_steps", "1", "--max_samples", "4", "--max_turns", "1", "--use_cpu"]  # fmt: skip
    config = ask(asked, *given, *typed, "--config_file", kit)
    train = config.train
    assert (train.learning_rate, train.epochs, train.batch_size, train.accumulation_steps) == (2e-4, 1.0, 1, 1)
    assert (config.data.max_samples, config.data.max_turns) == (4, 1)
    assert (train.output_dir, config.model.path) == (str(tmp_path / "out"), str(given[1]))
    assert manifest(config)["sources"][0]["path"] == "chats.jsonl"
    assert config.adapter.rank == 2, "what no flag says is the file's"


def test_fp16_of_the_kit_is_left_out_where_the_cpu_computes(kit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    console.warnings.clear()
    flags = with_file(Flags(config_file=kit, overrides={"train.device": "cpu"}))
    assert "train.precision" not in flags.overrides
    assert any("fp16" in warning for warning in console.warnings)
    import torch

    monkeypatch.setattr("hantune.train.precision.choose_device", lambda asked: torch.device("cuda"))
    assert with_file(Flags(config_file=kit)).overrides["train.precision"] == "fp16"


def test_a_yaml_file_speaks_where_no_flag_does(asked: Asked, given: list[object], tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(
        f"model:\n  path: {given[1]}\ndata:\n  path: {given[3]}\n  max_samples: 9\n"
        f"train:\n  output_dir: {tmp_path / 'from-file'}\n  learning_rate: 1e-3\n  batch_size: 2\n",
        encoding="utf-8",
    )
    config = ask(asked, "--config_file", path)
    assert config.train.output_dir == str(tmp_path / "from-file")
    assert (config.model.path, config.data.max_samples) == (str(given[1]), 9)
    assert (config.train.learning_rate, config.train.batch_size) == (1e-3, 2)
    config = ask(asked, *given, "--config_file", path, "--learning_rate", "2e-4", "--max_samples", "3")
    assert (config.train.learning_rate, config.train.batch_size, config.data.max_samples) == (2e-4, 2, 3)
    assert config.train.output_dir == str(tmp_path / "out")


def test_a_file_beats_the_settings_of_the_demo(asked: Asked, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("train:\n  epochs: 2\n  device: cpu\n", encoding="utf-8")
    config = ask(asked, "--config_file", path, "--output_dir", tmp_path / "out")
    assert (config.train.epochs, config.train.device, asked.taught_on) == (2.0, "cpu", "cpu")
    assert config.train.learning_rate == demo_module.PERSONA_SETTINGS["train.learning_rate"]
    config = ask(asked, "--config_file", path, "--output_dir", tmp_path / "out", "--num_train_epochs", "1")
    assert config.train.epochs == 1.0


def test_a_broken_file_is_told_at_once(asked: Asked, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("train:\n  epochz: 2\n", encoding="utf-8")
    assert main(["finetune", "--config_file", str(path), "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["place"] == f"{path}:2"
