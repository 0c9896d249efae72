"""The model of a run: on its device, in its precision, with what is learned set up, and the plan that fits it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from hantune.config.schema import RunConfig
from hantune.log import console
from hantune.train.plan import Plan, make_plan
from hantune.train.precision import Precision, choose_device, choose_precision
from hantune.train.setup import Material

DEFAULT_THREADS = torch.get_num_threads()
"""What torch chose for this machine, before any run of this process chose otherwise."""


@dataclass(frozen=True, kw_only=True)
class Ready:
    """Everything the loop starts from."""

    device: torch.device
    model: nn.Module
    precision: Precision
    plan: Plan

    def count(self, *, learned: bool = False) -> int:
        """Numbers in the model, or in what is learned of it."""
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad or not learned)

    def as_dict(self, material: Material) -> dict[str, Any]:
        """What ``plan.json`` holds."""
        return {
            **self.plan.as_dict(),
            "precision": self.precision.as_dict(),
            "device": str(self.device),
            "threads": torch.get_num_threads(),
            "parameters": {"total": self.count(), "learned": self.count(learned=True)},
            "tokens": int(material.train.lengths.sum()),
            "dropped": material.train.dropped,
            "template": material.template.name,
        }

    def say(self) -> None:
        """The plan in four lines."""
        plan = self.plan
        console.say(f"数据  训练 {plan.num_samples} 条  验证 {plan.num_val} 条  每步 {plan.samples_per_step} 条")
        console.say(f"参数  共 {self.count() / 1e6:.1f} 百万, 其中学习 {self.count(learned=True) / 1e6:.2f} 百万")
        console.say(f"精度  {self.precision.name}: {self.precision.reason}")
        console.say(f"步数  {plan.total_steps}, 每 {plan.eval_every} 步评测, 每 {plan.save_every} 步保存")


def get_ready(config: RunConfig, material: Material, recorded: dict[str, Any] | None = None) -> Ready:
    """Load the model and decide the rest; ``recorded``: the ``plan.json`` of a run that goes on, which is kept to.

    Raises: the ModelErrors of ``load_model``; ConfigError ``adapter.no-such-layer``, ``train.fp16-on-cpu``.
    """
    device = choose_device(config.train.device)
    torch.set_num_threads(recorded["threads"] if recorded else config.train.threads or DEFAULT_THREADS)
    precision = choose_precision(
        recorded["precision"]["name"] if recorded else config.train.precision,
        device,
        is_adapter=config.adapter.kind == "lora",
        num_parameters=_num_parameters(config),
    )
    if recorded:
        precision = replace(precision, reason=recorded["precision"]["reason"])
    model = _make_model(config, material, device, precision)
    return Ready(device=device, model=model, precision=precision, plan=_plan(config, material, model))


def _make_model(config: RunConfig, material: Material, device: torch.device, precision: Precision) -> nn.Module:
    from hantune.models import attention
    from hantune.models.load import load_model, require_rows
    from hantune.train.pointwise import fuse_attention, fuse_pointwise

    model: nn.Module = load_model(
        config.model.path, dtype=precision.weights, device=str(device), revision=config.model.revision
    )
    if config.train.batching != "sorted":
        attention.use(model, longest=config.data.max_tokens)
    require_rows(model, material.tokenizer, place=config.model.tokenizer or config.model.path)
    model = set_up(model, config)
    if device.type == "cpu":
        fuse_pointwise(model)
        fuse_attention(model)
    return model


def set_up(model: nn.Module, config: RunConfig) -> nn.Module:
    """The model with what is learned in it. Looks at no weight, so that a model without any can be set up too."""
    from hantune.models.adapter import attach_lora
    from hantune.models.call import bare_model, checkpoint_activations
    from hantune.train.lora_kernels import fuse_lora

    if config.adapter.kind == "lora":
        model = attach_lora(model, config.adapter, seed=config.train.seed)
        fuse_lora(model)
    if config.train.activation_checkpointing:
        checkpoint_activations(bare_model(model))
    return model


def _num_parameters(config: RunConfig) -> int:
    """Numbers in a model folder's weights, read from the headers."""
    from hantune.models.hub import local_folder
    from hantune.models.shards import tensor_places

    folder = local_folder(config.model.path, revision=config.model.revision)
    return sum(math.prod(spec.shape) for _, spec in tensor_places(folder).values())


def _plan(config: RunConfig, material: Material, model: nn.Module) -> Plan:
    from hantune.models.attention import NAME
    from hantune.models.call import bare_model, takes

    bare = bare_model(model)
    return make_plan(
        config,
        num_samples=len(material.train),
        num_val=len(material.val),
        can_pack=takes(bare, "position_ids"),
        packs_fast=bare.config._attn_implementation == NAME,
    )
