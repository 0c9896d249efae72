"""The model of a run: on its device, in its precision, with what is learned set up, and the plan that fits it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from hantune.config.schema import RunConfig
from hantune.errors import ConfigError
from hantune.evaluate.probes import Probe
from hantune.log import console, size
from hantune.models.footprint import weight_bytes
from hantune.models.fp8 import require_fp8
from hantune.models.hub import local_folder
from hantune.models.quantize import library, num_weights
from hantune.train.compiled import Choice, choose, restore
from hantune.train.floor import Floor, measured_floor
from hantune.train.learn import set_up
from hantune.train.liger import Kernels, use_liger
from hantune.train.optim import optimizer_name
from hantune.train.plan import Plan, continued, make_plan
from hantune.train.planning.gate import require_fit
from hantune.train.planning.outlook import Outlook, look_ahead, num_parameters
from hantune.train.planning.target import here
from hantune.train.precision import Precision, bears_fp16, choose_device, choose_precision, precision_of
from hantune.train.prepack import NEVER, Prepack, carried_out, choose_prepack, obstacle_to
from hantune.train.questions import plan_questions, questions_of
from hantune.train.recompute import Recompute, choose_recompute
from hantune.train.setup import Material

SLOWER_THAN_FLOOR = 2
"""A step takes about so many times what its matrix products alone would."""
TIMES_WEIGHTS = 5
"""A run on prepacked weights takes less than so many times their bytes, where nothing better is known of it."""
OVERFLOWS = "这个模型在 fp16 里会溢出 (试算过最长的一条样本)"
TRIED_TOKENS = 512
LOADED = {"8bit": "8 比特", "4bit": "4 比特 (NF4, 双重量化)", "fp8": "8 比特浮点 (FP8), 训练时乘法也用它"}
OPTIMIZERS = {
    "adamw8bit": "两份状态各存 8 比特",
    "paged_adamw": "显存不够时状态挪到内存",
    "paged_adamw8bit": "两份状态各存 8 比特, 显存不够时挪到内存",
}

DEFAULT_THREADS = torch.get_num_threads()
"""What torch chose for this machine, before any run of this process chose otherwise."""


@dataclass(frozen=True, kw_only=True)
class Ready:
    """Everything the loop starts from."""

    device: torch.device
    model: nn.Module
    precision: Precision
    recompute: Recompute
    prepack: Prepack
    kernels: Kernels
    load: str
    optimizer: str
    plan: Plan
    probes: tuple[Probe, ...]
    formulas: Choice
    floor: Floor | None = None
    patience: int | None = None
    outlook: Outlook | None = None

    def count(self, *, learned: bool = False) -> int:
        """Numbers in the model, or in what is learned of it."""
        return sum(num_weights(p) for p in self.model.parameters() if p.requires_grad or not learned)

    def as_dict(self, material: Material) -> dict[str, Any]:
        """What ``plan.json`` holds."""
        return {
            **self.plan.as_dict(),
            "precision": self.precision.as_dict(),
            "load": self.load,
            "recompute": self.recompute.as_dict(),
            "prepack": self.prepack.as_dict(),
            "kernels": self.kernels.as_dict(),
            "optimizer": self.optimizer,
            "formulas": self.formulas.as_dict(),
            "device": str(self.device),
            "threads": torch.get_num_threads(),
            "parameters": {"total": self.count(), "learned": self.count(learned=True)},
            "tokens": int(material.train.lengths.sum()),
            "dropped": material.train.dropped,
            "template": material.template.name,
            "forecast": None if self.outlook is None else self.outlook.as_dict(),
        }

    def say(self) -> None:
        """The plan in a few lines."""
        plan = self.plan
        console.say(f"数据  训练 {plan.num_samples} 条  验证 {plan.num_val} 条  每步 {plan.samples_per_step} 条")
        console.say(f"参数  共 {self.count() / 1e6:.1f} 百万, 其中学习 {self.count(learned=True) / 1e6:.2f} 百万")
        console.say(f"精度  {self.precision.name}: {self.precision.reason}")
        if self.device.type == "cuda":
            console.say(f"核    {', '.join(self.kernels.names) or '没有用 Liger 的'}: {self.kernels.reason}")
        if self.load != "full":
            console.say(f"底座  线性层压成 {LOADED[self.load]}, 冻住; 适配器仍是 float32")
        if self.optimizer != "adamw":
            console.say(f"优化  {self.optimizer}: {OPTIMIZERS[self.optimizer]}")
        if self.formulas.is_compiled:
            console.say(f"编译  {self.formulas.reason}")
        if self.prepack.is_on:
            console.say(f"预排  {self.prepack.reason}")
        if self.recompute.is_on:
            console.say(f"重算  反向时重算中间结果: {self.recompute.reason}")
        if self.outlook is not None:
            memory, room = self.outlook.memory, self.outlook.target.room
            free = "" if room is None else f", 能用 {size(room)}"
            console.say(f"内存  预计最多 {size(memory.needed)}{free}")
        console.say(f"步数  {plan.total_steps}, 每 {plan.eval_every} 步评测, 每 {plan.save_every} 步保存")
        if self.patience is not None:
            console.say(f"提前停止  验证损失连续 {self.patience} 次评测都没有降")
        if self.probes:
            steps = ", ".join(map(str, plan.probes.steps))
            console.say(
                f"试答  {len(self.probes)} 个问题, 在第 {steps} 步; 每个最多答 {plan.probes.max_tokens} 个词元 "
                f"(约占计算的 {plan.probes.share:.1%})"
            )


def require_libraries(config: RunConfig) -> None:
    """Nothing, if what the run will need is installed: better said before minutes of preparing data.

    Raises: MachineError ``machine.no-bitsandbytes``, ``machine.no-fp8``, ``machine.no-cuda``.
    """
    if config.model.load == "fp8":
        require_fp8(choose_device(config.train.device))
    if config.model.load in ("4bit", "8bit") or config.train.optimizer.removeprefix("paged_") != "adamw":
        library("bitsandbytes")


def get_ready(
    config: RunConfig,
    material: Material,
    recorded: dict[str, Any] | None = None,
    state: Mapping[str, Any] | None = None,
    outlook: Outlook | None = None,
) -> Ready:
    """Load the model and decide the rest.

    ``recorded``: the ``plan.json`` of a run that goes on, which is kept to; ``state``: of its checkpoint; ``outlook``:
    of this configuration, where it has been looked at already.

    Raises: the ModelErrors of ``load_model``; ConfigError ``adapter.no-such-layer``, ``train.fp16-on-cpu``,
        ``train.nothing-held-out``; RefusedError ``plan.no-fit``, ``plan.no-disk``.
    """
    require_held_out(config, len(material.val))
    device = choose_device(config.train.device)
    torch.set_num_threads(recorded["threads"] if recorded else config.train.threads or DEFAULT_THREADS)
    precision = choose_precision(
        recorded["precision"]["name"] if recorded else config.train.precision,
        device,
        is_adapter=config.adapter.kind == "lora",
        num_parameters=num_parameters(config),
    )
    if recorded:
        precision = replace(precision, reason=recorded["precision"]["reason"])
    kept = _recorded(recorded)
    outlook = outlook or _looked_at(config, material, device, precision, *kept)
    recompute, prepack = _choices(config, device, precision, outlook, *kept)
    model, kernels = _make_model(config, material, device, precision, recompute)
    is_free = config.train.precision == "auto" and not recorded
    if is_free and precision.name == "fp16" and not bears_fp16(model, _longest(material, device)):
        del model  # before the other one is loaded
        precision = precision_of("float32", OVERFLOWS, is_adapter=config.adapter.kind == "lora")
        outlook = _looked_at(config, material, device, precision, None, None)
        recompute, prepack = _choices(config, device, precision, outlook, None, None)
        model, kernels = _make_model(config, material, device, precision, recompute)
    prepack = carried_out(prepack, model)
    plan = continued(_plan(config, material, model, precision), config, material.train.lengths, state)
    probes = questions_of(config, material, model)
    asked = plan_questions(probes, config, material, model, plan, recorded, device)
    floor = measured_floor(model, device, precision.compute, rows=_usual_tokens(config, material, plan))
    return Ready(
        device=device,
        model=model,
        precision=precision,
        recompute=recompute,
        prepack=prepack,
        kernels=kernels,
        load=config.model.load,
        optimizer=optimizer_name(config.train, device),
        plan=replace(plan, probes=asked),
        probes=probes,
        formulas=_choose_formulas(config, material, device, precision, floor, plan, recorded),
        floor=floor,
        patience=config.train.early_stop_patience,
        outlook=outlook,
    )


def _recorded(recorded: dict[str, Any] | None) -> tuple[Recompute | None, Prepack | None]:
    """What a run that goes on keeps to; None for what is decided anew."""
    if recorded is None:
        return None, None
    recompute = Recompute(**recorded["recompute"]) if "recompute" in recorded else None  # not if it was asked for anew
    return recompute, Prepack(**recorded["prepack"]) if "prepack" in recorded else NEVER


def _choices(
    config: RunConfig,
    device: torch.device,
    precision: Precision,
    outlook: Outlook | None,
    recompute: Recompute | None,
    prepack: Prepack | None,
) -> tuple[Recompute, Prepack]:
    """As the outlook says; without one, what is kept to, or else what needs no prediction."""
    if outlook is not None:
        return outlook.recompute, outlook.prepack
    folder = local_folder(config.model.path, revision=config.model.revision)
    recompute = recompute or choose_recompute(config.train.activation_checkpointing)
    prepack = prepack or choose_prepack(
        config.train.prepack,
        obstacle_to(config, device, precision.weights),
        recompute,
        predicted=TIMES_WEIGHTS * weight_bytes(folder, load="full", dtype=precision.weights),
        available=here(device).room,
    )
    return recompute, prepack


def _looked_at(
    config: RunConfig,
    material: Material,
    device: torch.device,
    precision: Precision,
    recompute: Recompute | None,
    prepack: Prepack | None,
) -> Outlook | None:
    """What the run will take, if it is to be looked at before its weights are loaded.

    Raises: RefusedError ``plan.no-fit``, ``plan.no-disk``.
    """
    if not config.train.memory_check:
        return None
    outlook = look_ahead(config, material, here(device), precision, recompute, prepack=prepack)
    require_fit(config, material, outlook)
    return outlook


def _usual_tokens(config: RunConfig, material: Material, plan: Plan) -> int:
    """Tokens of a typical micro-batch."""
    rows = config.train.batch_size * float(material.train.lengths.mean())
    return max(64, round(min(rows, plan.batch_tokens or rows)))


def _choose_formulas(
    config: RunConfig,
    material: Material,
    device: torch.device,
    precision: Precision,
    floor: Floor | None,
    plan: Plan,
    recorded: dict[str, Any] | None,
) -> Choice:
    """Whether the element-wise formulas are compiled; a run that goes on keeps to what it began with."""
    if recorded:
        return restore(Choice(**recorded["formulas"]))
    if device.type != "cpu" or floor is None:
        return Choice(is_compiled=False, reason="显卡上另有融合的核" if floor else "不认识这个模型的形状")
    flop = floor.work.of(tokens=int(material.train.lengths.sum()), supervised=0, squares=0)
    width, inner = floor.work.shape
    return choose(
        config.train.compile,
        seconds=SLOWER_THAN_FLOOR * flop / floor.rate * plan.run_samples / plan.num_samples,
        shape=(_usual_tokens(config, material, plan), width, inner),
        like=torch.zeros(1, dtype=precision.compute, device=device),
    )


def require_held_out(config: RunConfig, num_val: int) -> None:
    """Nothing, if there is what the configuration wants to look at.

    Raises: ConfigError ``train.nothing-held-out``.
    """
    asked = {
        "train.early_stop_patience": config.train.early_stop_patience is not None,
        "train.final": config.train.final == "best" and config.train.best_by == "held_out",
    }
    names = [name for name, is_asked in asked.items() if is_asked]
    if names and num_val == 0:
        raise ConfigError(
            "train.nothing-held-out",
            f"{', '.join(names)} 要看验证损失, 可是没有留出验证对话",
            place=names[0],
            hint="整理数据时留一些: hantune data prepare ... --val-share 0.05; 或者去掉这个设置",
        )


def _longest(material: Material, device: torch.device) -> Tensor:
    """The beginning of the longest sample, 1 x T."""
    sample = material.train[int(material.train.lengths.argmax())]
    return torch.tensor([sample.ids[:TRIED_TOKENS]], device=device)


def _make_model(
    config: RunConfig, material: Material, device: torch.device, precision: Precision, recompute: Recompute
) -> tuple[nn.Module, Kernels]:
    from hantune.models import attention
    from hantune.models.load import load_in_fp8, load_model, require_rows
    from hantune.train.frozen import compute_densely
    from hantune.train.pointwise import fuse_attention, fuse_pointwise

    place: Any = {"dtype": precision.weights, "device": str(device), "revision": config.model.revision}
    if config.model.load == "fp8":
        model: nn.Module = load_in_fp8(config.model.path, **place)
    else:
        model = load_model(config.model.path, load=config.model.load, **place)
    compute_densely(model)
    if config.train.batching != "sorted":
        attention.use(model, longest=config.data.max_tokens)
    require_rows(model, material.tokenizer, place=config.model.tokenizer or config.model.path)
    model = set_up(model, config, recompute)
    if device.type == "cpu":
        fuse_pointwise(model)
        fuse_attention(model)
    return model, use_liger(model, device)


def _plan(config: RunConfig, material: Material, model: nn.Module, precision: Precision) -> Plan:
    from hantune.models.attention import NAME
    from hantune.models.call import bare_model, takes

    bare = bare_model(model)
    return make_plan(
        config,
        num_samples=len(material.train),
        num_val=len(material.val),
        can_pack=takes(bare, "position_ids"),
        packs_fast=bare.config._attn_implementation == NAME,
        is_wide=precision.is_wide,
    )
