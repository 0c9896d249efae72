"""The GPU ways: the same loop on a card, in bf16 and fp16, resumed, merged, answering. Run with ``pytest -m gpu``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hantune.assets import dialogues_path
from hantune.config.schema import AdapterSection, DataSection, EvalSection, ModelSection, RunConfig, TrainSection
from hantune.log import read_events

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card")]


def make_config(model: Path, out: Path, **train: Any) -> RunConfig:
    settings = {"output_dir": str(out), "epochs": 1, "batch_size": 16, "learning_rate": 3e-3, "device": "cuda"} | train
    return RunConfig(
        model=ModelSection(path=str(model)),
        data=DataSection(path=str(dialogues_path())),
        adapter=AdapterSection(rank=8),
        train=TrainSection(**settings),
        eval=EvalSection(max_samples=32, probes=("你好",), probe_max_tokens=8),
    )


@pytest.mark.parametrize("precision", ["bf16", "fp16", "float32"])
@pytest.mark.parametrize("batching", ["sorted", "packed"])
def test_a_run_learns_in_every_precision(
    tiny_llama_folder: Path, tmp_path: Path, precision: str, batching: str
) -> None:
    from hantune.train.run import train

    result = train(make_config(tiny_llama_folder, tmp_path / "run", precision=precision, batching=batching))
    assert result.loss_before is not None
    assert result.loss_after is not None
    assert result.loss_after < result.loss_before
    assert all(event["loss"] > 0 for event in read_events(result.run.events, "step"))


def test_bloom_learns(tiny_bloom_folder: Path, tmp_path: Path) -> None:
    from hantune.train.run import train

    result = train(make_config(tiny_bloom_folder, tmp_path / "run"))
    assert result.loss_after is not None
    assert result.loss_before is not None
    assert result.loss_after < result.loss_before


@pytest.mark.parametrize("load", ["8bit", "4bit"])
def test_a_frozen_base_in_few_bits_learns_and_merges(tiny_llama_folder: Path, tmp_path: Path, load: str) -> None:
    pytest.importorskip("bitsandbytes")
    from hantune.models.merge.merge import merge
    from hantune.train.run import train

    config = make_config(tiny_llama_folder, tmp_path / "run")
    config = config.model_copy(update={"model": ModelSection(path=str(tiny_llama_folder), load=load)})
    result = train(config)
    assert result.loss_after is not None
    assert result.loss_before is not None
    assert result.loss_after < result.loss_before
    assert merge(result.run.adapter, result.run.merged)["proof"]["wrong_weights"] == 0


def test_a_base_in_fp8_learns_as_in_float32_and_merges(tiny_llama_folder: Path, tmp_path: Path) -> None:
    require_units()
    from hantune.models.merge.merge import merge
    from hantune.train.run import train

    results = {}
    for load, precision in (("full", "float32"), ("fp8", "bf16")):
        config = make_config(tiny_llama_folder, tmp_path / load, precision=precision)
        model = ModelSection(path=str(tiny_llama_folder), load=load)  # type: ignore[arg-type]
        results[load] = train(config.model_copy(update={"model": model}))
    assert results["fp8"].loss_after == pytest.approx(results["full"].loss_after, rel=0.03)
    run = results["fp8"].run
    assert merge(run.adapter, run.merged)["proof"]["wrong_weights"] == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(1, 64, 48), (33, 4096, 11008), (1000, 11008, 4096)])
def test_fp8_products_on_a_card_are_those_of_a_cpu(dtype: Any, rows: int, inputs: int, outputs: int) -> None:
    """Rounding is the same bit by bit, compiled or not; the products differ by what sums in fewer bits leave out."""
    require_units()
    from hantune.models import fp8

    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(outputs, inputs, generator=draw).bfloat16()
    x, grad = (torch.randn(rows, size, generator=draw).to(dtype) for size in (inputs, outputs))
    found = {}
    for device in ("cpu", "cuda"):
        layer = torch.nn.Linear(inputs, outputs, bias=False, device="meta").train()
        layer.weight = fp8.packed(fp8.rounded(weight.to(device)))
        read = fp8.rounded(x.to(device))
        products = fp8.product(x.to(device), layer), fp8.product_back(grad.to(device), layer)
        found[device] = [part.cpu() for part in (layer.weight, read.codes.view(torch.uint8), read.scales, *products)]
    for ours, theirs in zip(found["cuda"][:3], found["cpu"][:3], strict=True):
        assert torch.equal(ours, theirs)
    for ours, theirs in zip(found["cuda"][3:], found["cpu"][3:], strict=True):
        assert ours.dtype == theirs.dtype == dtype
        assert float((ours.float() - theirs.float()).norm() / theirs.float().norm()) < 0.01


def require_units() -> None:
    """Skip the test on a card that has no FP8 units."""
    from hantune.errors import MachineError
    from hantune.models.fp8 import require_fp8

    try:
        require_fp8(torch.device("cuda:0"))
    except MachineError as error:
        pytest.skip(error.message)


@pytest.mark.parametrize("name", ["adamw8bit", "paged_adamw", "paged_adamw8bit"])
def test_lean_optimisers_learn_alike_and_resume(tiny_llama_folder: Path, tmp_path: Path, name: str) -> None:
    pytest.importorskip("bitsandbytes")
    import shutil

    from hantune.train.run import resume, train

    settings = {"precision": "float32", "learning_rate": 1e-3, "max_steps": 10, "save_every_steps": 5}
    losses = {}
    for optimizer in ("adamw", name):
        config = make_config(tiny_llama_folder, tmp_path / optimizer, optimizer=optimizer, **settings)
        result = train(config.model_copy(update={"adapter": AdapterSection(kind="none")}))
        losses[optimizer] = [event["loss"] for event in read_events(result.run.events, "step")]
    assert losses[name] == pytest.approx(losses["adamw"], rel=0.02)
    shutil.rmtree(result.run.model)
    shutil.rmtree(sorted(result.run.checkpoints.glob("step-*"))[-1])
    resume(result.run.root)
    again = [event["loss"] for event in read_events(result.run.events, "step")]
    assert again == pytest.approx(losses[name], rel=1e-4)


def test_ligers_kernels_are_taken_and_change_no_loss(
    tiny_llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("liger_kernel")
    import json

    from hantune.train import ready
    from hantune.train.liger import Kernels
    from hantune.train.run import train

    def losses(name: str) -> list[float]:
        config = make_config(tiny_llama_folder, tmp_path / name, precision="float32", max_steps=5, learning_rate=1e-4)
        return [event["loss"] for event in read_events(train(config).run.events, "step")]

    with monkeypatch.context() as without:
        without.setattr(ready, "use_liger", lambda model, device: Kernels(names=(), reason=""))
        plain = losses("plain")
    assert losses("liger") == pytest.approx(plain, rel=1e-3)
    kernels = json.loads((tmp_path / "liger" / "plan.json").read_bytes())["kernels"]
    assert set(kernels["names"]) == {"RMSNorm", "SwiGLU", "RoPE", "CrossEntropy"}, kernels["reason"]


def test_full_training_checkpointed_activations(tiny_llama_folder: Path, tmp_path: Path) -> None:
    from hantune.train.run import train

    config = make_config(tiny_llama_folder, tmp_path / "run", activation_checkpointing=True)
    result = train(config.model_copy(update={"adapter": AdapterSection(kind="none")}))
    assert result.loss_after is not None
    assert result.loss_before is not None
    assert result.loss_after < result.loss_before


def test_cpu_and_card_agree_in_float32(tiny_llama_folder: Path, tmp_path: Path) -> None:
    from hantune.train.run import train

    losses = []
    for device in ("cpu", "cuda"):
        config = make_config(
            tiny_llama_folder, tmp_path / device, device=device, precision="float32", max_steps=5, learning_rate=1e-4
        )
        losses.append([event["loss"] for event in read_events(train(config).run.events, "step")])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_resume_on_a_card_is_close(tiny_llama_folder: Path, tmp_path: Path) -> None:
    import shutil

    from hantune.train.run import resume, train

    result = train(make_config(tiny_llama_folder, tmp_path / "run", precision="float32", save_every_steps=5))
    whole = [event["loss"] for event in read_events(result.run.events, "step")]
    for folder in sorted(result.run.checkpoints.glob("step-*"))[1:]:
        shutil.rmtree(folder)
    resumed = resume(result.run.root)
    assert [event["loss"] for event in read_events(resumed.run.events, "step")] == pytest.approx(whole, rel=1e-4)


def test_merge_and_answers_on_a_card(tiny_llama_folder: Path, tmp_path: Path) -> None:
    from hantune.data.types import Message
    from hantune.infer.engine import open_engine
    from hantune.infer.sample import SamplingParams
    from hantune.models.merge.merge import merge
    from hantune.train.run import train

    run = train(make_config(tiny_llama_folder, tmp_path / "run")).run
    merge(run.adapter, run.merged)
    question = [[Message(role="user", text="你好")], [Message(role="user", text="中国的首都是哪里?")]]
    params = SamplingParams(max_tokens=12)
    tuned = open_engine(run.root, device="cuda", dtype=torch.float32).answer_many(question, params)
    merged = open_engine(run.merged, device="cuda", dtype=torch.float32).answer_many(question, params)
    assert [answer.text for answer in tuned] == [answer.text for answer in merged]
