"""The fixed questions of a run: chosen from configuration and data, and planned for its model and device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from hantune.config.schema import RunConfig
from hantune.data.types import Message
from hantune.evaluate.probes import Probe, choose_probes, learned_style
from hantune.infer.cache import is_keys_and_values
from hantune.infer.engine import Engine
from hantune.log import console
from hantune.models.call import bare_model
from hantune.train.plan import Plan
from hantune.train.probe_plan import ProbePlan, Workload, plan_probes
from hantune.train.setup import Material

LONGEST_DRAWN = 128
"""Tokens of a question that is drawn from held-out dialogues: a longer one costs more to read than to answer."""
MATRIX_FLOPS = {(7, 0): 1024, (7, 5): 1024, (8, 0): 2048, (8, 6): 512, (8, 9): 512, (9, 0): 4096}
"""Compute capability -> bf16 or fp16 operations of one multiprocessor in one clock, float32 sums. Source: the makers'
data sheets."""
OLDER_FLOPS, NEWER_FLOPS = 256, 8192
CLOCK, REACHED = 1.5e9, 0.55
"""Clocks per second, and the part of the matrix units' peak that training reaches."""


def questions_of(config: RunConfig, material: Material, model: nn.Module) -> tuple[Probe, ...]:
    """What this run asks; a question that leaves no room for an answer is left out with a warning."""
    engine = Engine(model, material.encoder, material.template)
    most = min(LONGEST_DRAWN, (engine.limit or 2 * LONGEST_DRAWN) // 2)

    def fits(messages: Sequence[Message]) -> bool:
        return len(engine.prompt_ids(messages)) <= most

    chosen = choose_probes(config.eval.probes, material.prepared, seed=config.train.seed, fits=fits)
    asked = tuple(probe for probe in chosen if engine.refusal(engine.prompt_ids(probe.messages)) is None)
    if len(asked) < len(chosen):
        console.warn(f"试答的问题里有 {len(chosen) - len(asked)} 个比模型的上下文还长, 不问")
    return asked


def plan_questions(
    probes: Sequence[Probe],
    config: RunConfig,
    material: Material,
    model: nn.Module,
    plan: Plan,
    recorded: Mapping[str, Any] | None,
    device: torch.device,
) -> ProbePlan:
    """When they are asked, of a model that need not have weights.

    ``recorded``: the ``plan.json`` of a run that goes on, which is kept to.
    """
    if recorded and recorded["total_steps"] == plan.total_steps:
        return ProbePlan.from_dict(recorded["probes"])
    engine = Engine(model, material.encoder, material.template)
    bare = bare_model(model)
    work = Workload(
        total_steps=plan.total_steps,
        trained_tokens=int(material.train.lengths.mean() * plan.samples_per_step * plan.total_steps),
        prompt_lengths=tuple(len(engine.prompt_ids(probe.messages)) for probe in probes),
        device=device.type,
        threads=torch.get_num_threads(),
        layers=bare.config.num_hidden_layers,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        card_flops=card_flops(device),
        rereads=not is_keys_and_values(bare.config),
    )
    style = learned_style(material.train, material.encoder)
    return plan_probes(work, style, most_share=config.eval.probe_share, max_tokens=config.eval.probe_max_tokens)


def card_flops(device: torch.device) -> float:
    """Operations per second that training reaches on a card, from its data sheet; 0 on a CPU."""
    if device.type != "cuda":
        return 0.0
    card = torch.cuda.get_device_properties(device)
    unknown = NEWER_FLOPS if card.major > 9 else OLDER_FLOPS if card.major < 7 else 512
    return card.multi_processor_count * CLOCK * REACHED * MATRIX_FLOPS.get((card.major, card.minor), unknown)
