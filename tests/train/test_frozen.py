"""Training on a base in 8 or 4 bits: its layers are the dense ones, evaluating changes nothing, and it learns."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hantune.config.schema import AdapterSection
from hantune.data.batch import collate
from hantune.data.types import Example, Message
from hantune.infer.engine import open_engine
from hantune.infer.sample import SamplingParams
from hantune.models.adapter import NEW_ROWS, attach_lora
from hantune.models.load import load_model
from hantune.models.loss import supervised_nats
from hantune.models.merge.merge import merge
from hantune.models.quantize import dense_weight, is_quantized
from hantune.train.frozen import compute_densely
from hantune.train.lora_kernels import fuse_lora
from hantune.train.run import TrainResult, resume, train
from tests.runs import folder_bytes, small_config, story

pytest.importorskip("bitsandbytes")
LOADS = ["4bit", "8bit"]


def layers_of(model: nn.Module) -> dict[str, nn.Linear]:
    return {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear) and is_quantized(m)}


def dense_twin(model: Any) -> Any:
    """The same model with plain linear layers that hold what the bits stand for."""
    for name, layer in layers_of(model).items():
        plain = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
        plain.weight = nn.Parameter(dense_weight(layer, torch.float32), requires_grad=False)
        plain.bias = layer.bias
        model.set_submodule(name, plain)
    for name in ("is_loaded_in_4bit", "is_loaded_in_8bit"):
        if hasattr(model, name):
            delattr(model, name)
    return model


def with_lora(model: Any, **settings: Any) -> Any:
    tuned = attach_lora(model, AdapterSection(rank=4, **settings), seed=0)
    draw = torch.Generator().manual_seed(3)
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.1, generator=draw)
    return tuned.train()


EXAMPLES = [
    Example(ids=tuple(range(5, 5 + n)), mask=(0,) * (n // 2) + (1,) * (n - n // 2)) for n in (9, 17, 12)
]


def outcome(model: Any) -> dict[str, Tensor]:
    """Loss and gradients."""
    model.zero_grad()
    nats, count = supervised_nats(model, collate(EXAMPLES, layout="sorted", pad_id=3))
    (nats / count).backward()  # type: ignore[no-untyped-call]
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {"loss": nats.detach(), **grads}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert float((found[name] - value).norm()) <= 1e-5 * float(value.norm()), name


@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize("family", ["llama", "bloom"])
@pytest.mark.parametrize("is_fused", [True, False])
def test_losses_and_gradients_are_those_of_the_dense_weights(
    load: str, family: str, is_fused: bool, request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue(f"tiny_{family}_folder")
    expected = outcome(with_lora(dense_twin(load_model(folder, dtype=torch.float32, load=load))))
    model = load_model(folder, dtype=torch.float32, load=load)
    assert compute_densely(model) == len(layers_of(model)) > 0
    model = with_lora(model)
    if is_fused:
        assert fuse_lora(model) == len(layers_of(model))
    assert_same(outcome(model), expected)


@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize("settings", [{}, {"dropout": 0.1}])
def test_evaluating_changes_no_bit_of_the_base_and_cuts_no_gradient(
    load: str, settings: dict[str, Any], tiny_llama_folder: Path
) -> None:
    """With bitsandbytes' own forward it does both on a CPU with AVX512-BF16, and says nothing."""
    model = load_model(tiny_llama_folder, dtype=torch.float32, load=load)
    compute_densely(model)
    model = with_lora(model, **settings)
    fuse_lora(model)

    def bits() -> dict[str, bytes]:
        return {name: layer.weight.data.numpy().tobytes() for name, layer in layers_of(model).items()}

    before, held = outcome_of_seed(model), bits()
    model.eval()
    with torch.no_grad():
        model(input_ids=torch.tensor([[1, 5, 9]]))
    model.train()
    assert bits() == held
    after = outcome_of_seed(model)
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def outcome_of_seed(model: Any) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return outcome(model)


@pytest.mark.parametrize("load", ["full", *LOADS])
@pytest.mark.parametrize("is_autocast", [True, False])
def test_an_fp16_base_takes_float32_adapters_and_new_rows(
    load: str, is_autocast: bool, tiny_llama_folder: Path
) -> None:
    """``expected scalar type Half but found Float`` (BELLE, V100, P40): neither in a step nor in a probe."""
    model = load_model(tiny_llama_folder, dtype=torch.float16, load=load)
    setattr(model.config, NEW_ROWS, [300, 310])
    compute_densely(model)
    model = with_lora(model)
    fuse_lora(model)
    with torch.autocast("cpu", torch.float16, enabled=is_autocast):
        nats, _ = supervised_nats(model, collate(EXAMPLES, layout="packed", pad_id=3))
    (nats * 8).backward()  # type: ignore[no-untyped-call]
    learned = [p for p in model.parameters() if p.requires_grad]
    assert {p.grad.dtype for p in learned if p.grad is not None} == {torch.float32}
    assert nats.dtype == torch.float32
    assert bool(nats.isfinite())
    model.eval()
    with torch.no_grad():
        assert model.generate(torch.tensor([[1, 5]]), max_new_tokens=2, do_sample=False).shape == (1, 4)


def test_under_autocast_the_products_are_in_its_type(tiny_llama_folder: Path) -> None:
    model = load_model(tiny_llama_folder, dtype=torch.float32, load="4bit")
    compute_densely(model)
    layer = next(iter(layers_of(model).values()))
    x = torch.randn(2, layer.in_features)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    assert layer(x).dtype == torch.float32


@pytest.fixture(scope="module")
def runs(tiny_llama_folder: Path, prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, TrainResult]:
    """The same short training on the base as it is and in fewer bits. Read only."""
    folder = tmp_path_factory.mktemp("frozen")
    settings = {
        "train__epochs": 8, "train__max_steps": 48, "train__learning_rate": 5e-3, "train__save_every_steps": 16,
        "eval__every_steps": 16, "adapter__rank": 8,
    }  # fmt: skip
    return {
        load: train(small_config(tiny_llama_folder, prepared, folder / load, model__load=load, **settings))
        for load in ("full", *LOADS)
    }


@pytest.mark.parametrize("load", LOADS)
def test_it_learns_within_two_per_cent_of_float32(load: str, runs: dict[str, TrainResult]) -> None:
    full, less = runs["full"], runs[load]
    assert full.loss_before is not None
    assert full.loss_after is not None
    assert full.loss_after < full.loss_before - 0.5
    assert less.loss_after == pytest.approx(full.loss_after, rel=0.02)
    assert less.loss_after != full.loss_after


@pytest.mark.parametrize("load", LOADS)
def test_a_resumed_run_is_bit_identical(load: str, runs: dict[str, TrainResult], tmp_path: Path) -> None:
    shutil.copytree(runs[load].run.root, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "adapter")
    for folder in sorted((tmp_path / "run" / "checkpoints").glob("step-*"))[1:]:
        shutil.rmtree(folder)
    again = resume(tmp_path / "run").run
    assert story(again) == story(runs[load].run)
    assert folder_bytes(again.adapter)["adapter_model.safetensors"] == (
        folder_bytes(runs[load].run.adapter)["adapter_model.safetensors"]
    )


@pytest.mark.parametrize(("load", "kind"), [("4bit", "nf4"), ("8bit", "int8"), ("full", None)])
def test_the_adapter_carries_its_bits_to_chat_and_merge(
    load: str, kind: str | None, runs: dict[str, TrainResult], tmp_path: Path
) -> None:
    run = runs[load].run
    record = json.loads((run.adapter / "hantune.json").read_bytes())
    assert record.get("quantization", {}).get("type") == kind
    plan = json.loads(run.plan.read_bytes())
    assert plan["load"] == load
    engine = open_engine(run.root, device="cpu")
    assert engine.load == load
    assert bool(layers_of(engine.model)) is (load != "full")
    assert not layers_of(open_engine(run.root, device="cpu", load="full").model)
    report = merge(run.adapter, tmp_path / "merged")
    assert report["base_quantization"] == kind
    assert report["proof"]["wrong_weights"] == 0
    assert open_engine(tmp_path / "merged", device="cpu").answer(
        [Message(role="user", text="你好")], SamplingParams(max_tokens=3)
    ).ids


def test_parameters_are_counted_as_weights_not_as_bytes(runs: dict[str, TrainResult]) -> None:
    counts = [json.loads(result.run.plan.read_bytes())["parameters"] for result in runs.values()]
    assert counts[0] == counts[1] == counts[2]


def test_the_merged_model_is_the_one_that_was_trained(
    runs: dict[str, TrainResult], tmp_path: Path, tiny_llama_folder: Path
) -> None:
    """Merged into the 4-bit base it gives the logits of training; merged into the full one it would not."""
    from hantune.models.adapter import load_adapter

    run = runs["4bit"].run
    merge(run.adapter, tmp_path / "merged")
    ids = torch.tensor([[1, 5, 9, 300, 17]])
    base = load_model(tiny_llama_folder, dtype=torch.float32, load="4bit")
    compute_densely(base)
    with torch.no_grad():
        trained = load_adapter(base, run.adapter)(input_ids=ids).logits
        merged = load_model(tmp_path / "merged", dtype=torch.float32)(input_ids=ids).logits
        full = load_adapter(load_model(tiny_llama_folder, dtype=torch.float32), run.adapter)(input_ids=ids).logits
    scale = float(trained.square().mean().sqrt())
    assert float((merged - trained).abs().max()) < 1e-4 * scale
    assert float((full - trained).abs().max()) > 1e-2 * scale


def test_dora_on_few_bits_is_pefts(tiny_llama_folder: Path, make_dora: Callable[[Any], Any]) -> None:
    expected = outcome(make_dora(dense_twin(load_model(tiny_llama_folder, dtype=torch.float32, load="4bit"))))
    model = load_model(tiny_llama_folder, dtype=torch.float32, load="4bit")
    compute_densely(model)
    tuned = make_dora(model)
    fuse_lora(tuned)
    assert_same(outcome(tuned), expected)


@pytest.fixture
def make_dora() -> Callable[[Any], Any]:
    from peft import LoraConfig, get_peft_model

    def make(model: Any) -> Any:
        torch.manual_seed(0)
        config = LoraConfig(r=4, target_modules=["q_proj", "up_proj"], use_dora=True, task_type="CAUSAL_LM")
        return get_peft_model(model, config).train()

    return make
