"""Everything that can be wrong with a run file, with its code, place, and way out; all at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from hantune.config.check import require_complete
from hantune.config.io import load_config
from hantune.config.schema import RunConfig
from hantune.errors import ConfigError

SECRET = "s3cr3tvalue"


def refused(tmp_path: Path, text: str | bytes, *overrides: str, name: str = "run.yaml") -> ConfigError:
    """The error that loading ``text`` under ``overrides`` gives, with the folder cut from its place."""
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    error = caught.value
    error.place = (error.place or "").replace(str(tmp_path) + "/", "")
    error.message = error.message.replace(str(tmp_path) + "/", "")
    return error


@pytest.mark.parametrize(
    ("text", "place", "message", "hint"),
    [
        (
            "train:\n  batchsize: 8\n",
            "run.yaml:2",
            "没有这个设置 train.batchsize; 是不是 train.batch_size?",
            "batch_size",
        ),
        ("train:\n\n  lora_r: 8\n", "run.yaml:3", "是不是 adapter.rank?", "adapter: 下面的 rank"),
        ("per_device_train_batch_size: 1\n", "run.yaml:1", "是不是 train.batch_size?", "train: 下面的 batch_size"),
        ("data: {cutoff_len: 9}\n", "run.yaml:1", "是不是 data.max_tokens?", "max_tokens"),
        ("learning_rate: 1e-4\n", "run.yaml:1", "是不是 train.learning_rate?", "train: 下面的"),
        ("trian:\n  seed: 1\n", "run.yaml:1", "没有这一节 trian; 是不是 train?", "model, data, template"),
        ("train:\n  optim: adamw\n", "run.yaml:2", "没有这个设置 train.optim", "optimizer"),
        ("model:\n  load_in_4bit: true\n", "run.yaml:2", "是不是 model.load?", "load"),
        ("train:\n  use_liger_kernel: true\n", "run.yaml:2", "没有这个设置", "liger-kernel"),
        ("train:\n  xyzzy: 1\n", "run.yaml:2", "没有这个设置 train.xyzzy", "docs/reference/config.md"),
    ],
)
def test_unknown_keys_name_the_nearest(tmp_path: Path, text: str, place: str, message: str, hint: str) -> None:
    error = refused(tmp_path, text)
    assert error.code == "config.unknown-key"
    assert error.place == place
    assert message in error.message
    assert hint in (error.hint or "")


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("train: {batch_size: '8'}", '应为 整数 (≥ 1), 现在是 "8"', "去掉引号, 写成 8"),
        ("train: {learning_rate: '2e-4'}", "应为 数", "写成 2e-4"),
        ("train: {batch_size: 8.0}", "应为 整数 (≥ 1), 现在是 8.0", "写成 8"),
        ("train: {batch_size: true}", "应为 整数 (≥ 1), 现在是 true", ""),
        ("train: {batch_size: 0}", "不能小于 1, 现在是 0", ""),
        ("train: {batch_size: }", "不能留空", "默认 8"),
        ("train: {epochs: 0}", "要大于 0, 现在是 0", ""),
        ("train: {learning_rate: 2}", "不能大于 1.0, 现在是 2", ""),
        ("train: {seed: 4294967296}", "要小于 4294967296", ""),
        ("train: {epochs: .inf}", "有限的数", ""),
        ("train: {activation_checkpointing: yes}", '应为 auto 或 true 或 false, 现在是 "yes"', "true 或 false"),
        ("model: {load: nf4}", "应为 full, 8bit, 4bit 或 fp8", "写成 4bit"),
        ("train: {optimizer: paged_adamw_8bit}", "应为 adamw", "写成 paged_adamw8bit"),
        ("adapter: {layers_to_transform: 8}", "应为 整数列表 (至少 1 项) 或 文字, 现在是 8", "last 8 或 [20, 21]"),
        ("adapter: {layers_to_transform: last}", '现在是 "last"', "last 8 或 [20, 21]"),
        ("train: {device: gpu}", "应为 auto, cpu 或 cuda", "写成 cuda"),
        ("train: {batching: sort}", "应为 auto, sorted 或 packed", "写成 sorted"),
        ("train: {epochs: [1]}", "应为 数 (> 0), 现在是 [1]", ""),
        ("train: {epochs: {a: 1}}", "又一层设置", ""),
        ("model: {path: 7}", "应为 文字, 现在是 7", '写成 "7"'),
        ("adapter: {targets: 'q_proj,v_proj'}", "应为 文字列表", "写成 [q_proj, v_proj]"),
        ("adapter: {targets: all}", "应为 文字列表", "写成 all-linear"),
        ("adapter: {targets: []}", "至少要有 1 项", ""),
        ("eval: {probes: [1]}", "应为 文字列表", '["1", "2"]'),
        ("log: {trackers: wandb}", "应为 列表", "写成 [wandb]"),
        ("model: abc", "model 是一节", "缩进"),
        ("train:\n  seed:1", "train 是一节", "后面要有空格"),
        ("train:\n  seed：1", "train 是一节", "英文"),
    ],
)
def test_bad_values_say_what_is_wanted_what_is_there_and_what_to_write(
    tmp_path: Path, text: str, message: str, hint: str
) -> None:
    error = refused(tmp_path, text)
    assert error.code == "config.bad-value"
    assert error.place
    assert error.place.startswith("run.yaml:")
    assert message in error.message
    assert hint in (error.hint or "")


@pytest.mark.parametrize(
    "text", ["train:\n  seed: 1\n  epochs: 2\n  seed: 3\n", "train:\n  seed: 1\n\ntrain:\n  epochs: 1"]
)
def test_duplicate_keys(tmp_path: Path, text: str) -> None:
    error = refused(tmp_path, text)
    assert error.code == "config.duplicate-key"
    assert error.place == "run.yaml:4"
    assert "写了两次 (第" in error.message


def test_a_missing_file_names_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "rnu.yml")
    assert caught.value.code == "config.missing"
    assert "run.yaml" in (caught.value.hint or "")
    for path in (tmp_path, tmp_path / "no" / "run.yaml"):
        with pytest.raises(ConfigError) as caught:
            load_config(path)
        assert caught.value.code == "config.missing"


def test_an_override_in_front_of_the_file_is_told_where_it_belongs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(Path("train.epochs=1"))
    assert caught.value.hint == "配置文件写在最前面, 改动写在后面: hantune train run.yaml train.epochs=1"


@pytest.mark.parametrize("encoding", ["gb18030", "utf-16"])
def test_other_encodings(tmp_path: Path, encoding: str) -> None:
    error = refused(tmp_path, "train:\n  # 种子\n  seed: 1\n".encode(encoding))
    assert error.code == "config.unreadable"
    assert "UTF-8" in error.message


def test_overrides_that_cannot_be_read(tmp_path: Path) -> None:
    for text in ("train.seed", "=1", "data.max_turns=[", "adapter.targets=[a"):
        error = refused(tmp_path, "train:\n", text)
        assert (error.code, error.place) == ("config.bad-override", "命令行")
        assert error.hint
    assert "是不是 adapter.rank?" in refused(tmp_path, "train:\n", "lora_r=8").message
    assert refused(tmp_path, "train:\n", "train.batch_size=0").code == "config.bad-value"


def test_an_unknown_preset_names_the_nearest(tmp_path: Path) -> None:
    error = refused(tmp_path, "train:\n  seed: 1\npreset: cpulora\n")
    assert (error.code, error.place) == ("config.unknown-preset", "run.yaml:3")
    assert "是不是 cpu-lora?" in error.message
    assert "tiny-cpu" in (error.hint or "")


def test_rules_over_several_settings_have_a_place(tmp_path: Path) -> None:
    error = refused(tmp_path, "train:\n  seed: 1\n  precision: fp16\n", "train.device=cpu")
    assert (error.code, error.place) == ("config.conflict", "run.yaml:3")


def test_all_problems_come_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = "lora_r: 8\ntrain:\n  epochs: 0\n  precision: fp16\n  device: cpu\n"
    text += "  seed: 1\n  seed: 2\n  bathc_size: 1\ndata: 3\n"
    error = refused(tmp_path, text, "eval.max_samples=0", "log.every_steps")
    assert error.code == "config.invalid"
    assert error.place == "run.yaml:1"
    places = [line.split()[0] for line in error.message.splitlines()[1:]]
    assert places == [f"run.yaml:{line}" for line in (1, 3, 4, 7, 8, 9)] + ["命令行", "命令行"]


@pytest.mark.parametrize(
    ("text", "overrides"),
    [
        (f"model:\n  token: {SECRET}\n", []),
        (f"hf_token: {SECRET}\n", []),
        (f"log: {{wandb_api_key: {SECRET}}}\ntrian: 1\n", []),
        (f"train: {{password: '{SECRET}'}}\n", []),
        (f"model:\n  path: https://me:{SECRET}@example.com/m\n", []),
        (f"model:\n  revision: hf_{SECRET}{SECRET}\n", []),
        ("train:\n", [f"model.api_key={SECRET}"]),
        ("train:\n", [f"model.path=sk-{SECRET}{SECRET}"]),
    ],
)
def test_secrets_are_refused_and_never_repeated(tmp_path: Path, text: str, overrides: list[str]) -> None:
    error = refused(tmp_path, text, *overrides)
    assert error.code == "config.secret"
    assert SECRET not in f"{error.message} {error.hint} {error.place} {error!r} {error.__context__!r}"


def test_a_training_needs_model_and_data() -> None:
    with pytest.raises(ConfigError) as caught:
        require_complete(load_config(None, ["model.path= "]).config, "run.yaml")
    assert caught.value.code == "config.incomplete"
    assert "model.path, data.path" in caught.value.message
    require_complete(load_config(None, ["model.path=m", "data.path=d"]).config)
    assert RunConfig().model.path == ""
