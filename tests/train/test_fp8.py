"""Training on a base in 8-bit floats, on the CPU: losses and gradients near the dense ones, what comes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hantune.config.schema import AdapterSection, ModelSection, RunConfig, TrainSection
from hantune.data.batch import collate
from hantune.data.types import Example
from hantune.errors import MachineError
from hantune.infer.engine import open_engine
from hantune.models.adapter import attach_lora, load_adapter
from hantune.models.fp8 import computes_in_fp8
from hantune.models.load import load_in_fp8, load_model
from hantune.models.loss import supervised_nats
from hantune.models.merge.merge import merge
from hantune.models.quantize import Fp8, is_quantized, round_linears
from hantune.train.frozen import compute_densely
from hantune.train.lora_kernels import fuse_lora
from hantune.train.ready import require_libraries
from hantune.train.run import TrainResult, resume, train
from tests.runs import folder_bytes, small_config, story

EXAMPLES = [
    Example(ids=tuple(range(5, 5 + n)), mask=(0,) * (n // 2) + (1,) * (n - n // 2)) for n in (9, 17, 12, 30)
]


def with_lora(model: Any, **settings: Any) -> Any:
    tuned = attach_lora(model, AdapterSection(rank=4, **settings), seed=0)
    draw = torch.Generator().manual_seed(3)
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.1, generator=draw)
    return tuned.train()


def in_fp8(folder: Path, dtype: torch.dtype = torch.float32, *, is_fused: bool = True, **settings: Any) -> Any:
    model = load_in_fp8(folder, dtype=dtype, device="cpu")
    assert compute_densely(model) > 0
    model = with_lora(model, **settings)
    if is_fused:
        fuse_lora(model)
    return model


def dense_twin(folder: Path, dtype: torch.dtype = torch.float32, **settings: Any) -> Any:
    """The same with plain layers that hold what the 8 bits stand for."""
    model = load_model(folder, dtype=dtype)
    round_linears(model, Fp8(dtype=dtype))
    return with_lora(model, **settings)


def outcome(model: Any) -> dict[str, Tensor]:
    """Loss and gradients."""
    model.zero_grad()
    torch.manual_seed(0)
    nats, count = supervised_nats(model, collate(EXAMPLES, layout="sorted", pad_id=3))
    (nats / count).backward()  # type: ignore[no-untyped-call]
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {"loss": nats.detach(), **grads}


@pytest.mark.parametrize("family", ["llama", "bloom"])
@pytest.mark.parametrize(("is_fused", "settings"), [(True, {}), (False, {}), (True, {"dropout": 0.1})])
def test_losses_and_gradients_are_near_those_of_the_dense_weights(
    family: str, is_fused: bool, settings: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue(f"tiny_{family}_folder")
    expected = outcome(dense_twin(folder, **settings))
    found = outcome(in_fp8(folder, is_fused=is_fused, **settings))
    assert found.keys() == expected.keys()
    assert float(found["loss"]) == pytest.approx(float(expected["loss"]), rel=0.01)
    for name, value in expected.items():
        assert float((found[name] - value).norm()) <= 0.15 * float(value.norm()), name
        assert found[name].dtype == torch.float32


def test_errors_of_rounding_have_no_direction(tiny_llama_folder: Path) -> None:
    """A scale that went missing would be one; what rounding does goes away in the mean over many gradients."""
    expected, found = outcome(dense_twin(tiny_llama_folder)), outcome(in_fp8(tiny_llama_folder))
    ours, theirs = (torch.cat([v.flatten() for n, v in r.items() if n != "loss"]) for r in (found, expected))
    assert float(ours @ theirs / theirs.square().sum()) == pytest.approx(1, abs=0.02)
    assert float(torch.cosine_similarity(ours, theirs, dim=0)) > 0.99


def test_evaluation_is_that_of_the_dense_weights_bit_by_bit(tiny_llama_folder: Path) -> None:
    ids = torch.tensor([[1, 5, 9, 300, 17]])
    model, twin = in_fp8(tiny_llama_folder, torch.bfloat16).eval(), dense_twin(tiny_llama_folder, torch.bfloat16).eval()
    fuse_lora(twin)
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, twin(input_ids=ids).logits)
    before = outcome(model.train())
    model.eval()
    model.train()
    assert all(torch.equal(value, before[name]) for name, value in outcome(model).items())


def test_a_neighbour_in_the_packed_row_changes_nothing(tiny_llama_folder: Path) -> None:
    """Each row has its own scale: with one for the whole tensor a loud sample would coarsen the others."""
    model = in_fp8(tiny_llama_folder)
    with torch.no_grad():
        alone = [float(supervised_nats(model, collate([e], layout="packed", pad_id=3))[0]) for e in EXAMPLES]
        together = float(supervised_nats(model, collate(EXAMPLES, layout="packed", pad_id=3))[0])
    assert together == pytest.approx(sum(alone), rel=1e-3)


@pytest.fixture(scope="module")
def runs(tiny_llama_folder: Path, prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, TrainResult]:
    """The same short training in float32 on the base as it is, and on the one in 8-bit floats. Read only."""
    folder = tmp_path_factory.mktemp("fp8")
    settings = {
        "train__epochs": 8, "train__max_steps": 48, "train__learning_rate": 5e-3, "train__save_every_steps": 16,
        "eval__every_steps": 16, "adapter__rank": 8,
    }  # fmt: skip
    return {
        load: train(small_config(tiny_llama_folder, prepared, folder / load, model__load=load, **settings))
        for load in ("full", "fp8")
    }


def test_it_learns_within_two_per_cent_of_float32(runs: dict[str, TrainResult]) -> None:
    full, less = runs["full"], runs["fp8"]
    assert full.loss_before is not None
    assert full.loss_after is not None
    assert full.loss_after < full.loss_before - 0.5
    assert less.loss_after == pytest.approx(full.loss_after, rel=0.02)
    assert less.loss_after != full.loss_after
    plans = [json.loads(result.run.plan.read_bytes()) for result in (full, less)]
    assert plans[1]["load"] == "fp8"
    assert plans[0]["parameters"] == plans[1]["parameters"]


def test_a_resumed_run_is_bit_identical(runs: dict[str, TrainResult], tmp_path: Path) -> None:
    import shutil

    shutil.copytree(runs["fp8"].run.root, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "adapter")
    for folder in sorted((tmp_path / "run" / "checkpoints").glob("step-*"))[1:]:
        shutil.rmtree(folder)
    again = resume(tmp_path / "run").run
    assert story(again) == story(runs["fp8"].run)
    assert folder_bytes(again.adapter)["adapter_model.safetensors"] == (
        folder_bytes(runs["fp8"].run.adapter)["adapter_model.safetensors"]
    )


def test_evaluation_answers_and_merge_have_one_and_the_same_weight(
    runs: dict[str, TrainResult], tmp_path: Path, tiny_llama_folder: Path
) -> None:
    run = runs["fp8"].run
    record = json.loads((run.adapter / "hantune.json").read_bytes())["quantization"]
    report = merge(run.adapter, tmp_path / "merged")
    assert report["base_quantization"] == record["type"] == "fp8"
    assert report["proof"]["wrong_weights"] == 0
    dtype = getattr(torch, record["dtype"])
    ids = torch.tensor([[1, 5, 9, 300, 17]])
    base = load_in_fp8(tiny_llama_folder, dtype=dtype, device="cpu")
    compute_densely(base)
    engine = open_engine(run.root, device="cpu", dtype=dtype)
    assert engine.load == "full"
    assert not any(is_quantized(module) for module in engine.model.modules())
    unrounded = open_engine(run.root, device="cpu", dtype=dtype, load="full")
    with torch.no_grad():
        trained = load_adapter(base, run.adapter).eval()(input_ids=ids).logits.float()
        answering = engine.model(input_ids=ids).logits.float()
        merged = load_model(tmp_path / "merged", dtype=torch.float32)(input_ids=ids).logits
        full = unrounded.model(input_ids=ids).logits.float()
    scale = float(trained.square().mean().sqrt())
    assert float((answering - trained).abs().max()) < 1e-4 * scale
    assert float((merged - trained).abs().max()) < 1e-4 * scale
    assert float((full - trained).abs().max()) > 1e-3 * scale


def test_a_run_says_so_before_it_prepares_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.nn.functional, "scaled_mm", None)
    config = RunConfig(model=ModelSection(load="fp8"), train=TrainSection(device="cpu"))
    with pytest.raises(MachineError) as caught:
        require_libraries(config)
    assert caught.value.code == "machine.no-fp8"


def test_layers_that_do_not_fit_are_trained_as_they_are() -> None:
    from hantune.models.fp8 import hold_in_fp8

    model = nn.ModuleDict({"fits": nn.Linear(32, 16), "narrow": nn.Linear(32, 8)})
    model.get_output_embeddings = lambda: None  # type: ignore[assignment, method-assign]
    assert hold_in_fp8(model, torch.device("cpu")) == 1
    assert computes_in_fp8(model["fits"])
    assert model["narrow"].weight.dtype == torch.float32
