"""The proof that a merged model is base + adapter: its weights, its logits and the tokens it chooses on probe prompts.

Three checks, because each is blind where another sees. Weights: each one is what PEFT makes of the base's, correctly
rounded; this finds a wrong scale however small the adapter is. Logits: the files, names, shapes and ties make the same
model. Chosen tokens: what a user sees. One layer is in memory at a time (``sweep.py``).
Shape letters: B probes, T positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from hantune.data.types import Message
from hantune.errors import ModelError
from hantune.models.merge.sweep import Sweep, stacked

TOLERANCES = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 2e-1}
"""Largest logit difference allowed, in units of the logits' root mean square, by the dtype the weights are stored in.

Measured on correct merges of random Llamas and BLOOMs, computed in float32: at most 6e-6 for float32 (sums in another
order); for bfloat16 (each weight rounded to 8 bits) 4e-2 with 12 layers, 7e-2 with 22, 1.1e-1 with 32: it grows with
depth, and so does what is allowed beyond ``DEPTH``. float16 has 3 bits more. This check is for lost layers, heads and
ties; ``wrong_weights`` is the sharp one.
"""
DEPTH = 32
"""Layers for which ``TOLERANCES`` are meant."""
PROBES = ("你好", "今天心情不太好, 怎么办?", "Please introduce yourself in one sentence.")
GREEDY_TOKENS = 12
"""How far the answers to the probes are followed where the model is small."""
WORK = 10**10
"""About how many weights times tokens the answers may cost: a few seconds. Of a model for which that is too little,
the shortest probe and its next token are looked at, and what it would choose at each earlier place."""


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Logits (float32, T x V) along the same texts: of base + adapter, of the base alone, and of the merged model."""

    reference: tuple[Tensor, ...]
    untouched: tuple[Tensor, ...]
    merged: tuple[Tensor, ...]


@dataclass(frozen=True, kw_only=True)
class Proof:
    """How near two models are. ``difference`` and ``tolerance`` in units of the logits' root mean square."""

    difference: float
    tolerance: float
    positions: int
    equal_tokens: int
    flips: int
    """Tokens that differ where base + adapter itself was undecided (its two best logits nearer than the difference)."""
    wrong_flips: int
    """Tokens that differ where it was decided: never allowed."""
    wrong_weights: int
    """Weights that are not what PEFT makes of the base's, correctly rounded: never allowed."""
    lost: float
    """How much of what the adapter does to the logits the rounding of weights undoes (root mean squares)."""

    @property
    def holds(self) -> bool:
        return self.difference <= self.tolerance and self.wrong_flips == 0 and self.wrong_weights == 0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"holds": self.holds}


def probe_ids(tokenizer: Any, template: Any) -> list[list[int]]:
    """The probe prompts as the model is asked at serving: through its template."""
    from hantune.data.tokens import Encoder

    encoder = Encoder(tokenizer)
    return [encoder.prompt(template.render([Message(role="user", text=text)], encoder.marks)) for text in PROBES]


def answers(sweep: Sweep, prompts: Sequence[Sequence[int]], *, parameters: int) -> Answers:
    """What the three models make of the prompts and of the greedy answers of base + adapter.

    ``parameters``: of the model; they decide how many prompts and tokens ``WORK`` allows.
    """
    rows = _affordable(prompts, parameters)
    one_pass = parameters * sum(map(len, rows))
    for _ in range(min(GREEDY_TOKENS, WORK // one_pass)):
        logits_BTV = sweep.reference(stacked(rows))
        rows = [[*row, int(its[len(row) - 1].argmax())] for row, its in zip(rows, logits_BTV, strict=True)]
    three = sweep.all_three(stacked(rows))
    cut = [tuple(its[: len(row)] for row, its in zip(rows, logits, strict=True)) for logits in three]
    return Answers(reference=cut[0], untouched=cut[1], merged=cut[2])


def _affordable(prompts: Sequence[Sequence[int]], parameters: int) -> list[list[int]]:
    """The shortest prompts, as many as ``WORK`` allows to be read once, at least one."""
    kept: list[list[int]] = []
    for prompt in sorted(prompts, key=len):
        if kept and parameters * (sum(map(len, kept)) + len(prompt)) > WORK:
            break
        kept.append(list(prompt))
    return kept


def compare(answers: Answers, dtype: torch.dtype, *, wrong: int, layers: int = DEPTH) -> Proof:
    """The proof from the logits of the three models, which have ``layers``; the merged weights are in ``dtype``.

    As long as all choices agree, the merged model's greedy answer is the reference's, token by token.
    ``wrong``: merged weights that a sweep called wrong.
    """
    pairs = list(zip(answers.reference, answers.merged, strict=True))
    gaps = [(its - mine).abs().max() for its, mine in pairs]
    largest = float(torch.stack(gaps).max())  # unlike max(), keeps a NaN, and no NaN is within the tolerance
    equal = flips = wrong_flips = 0
    for its, mine in pairs:
        differs = its.argmax(-1) != mine.argmax(-1)
        best = its.topk(2, dim=-1).values
        undecided = best[:, 0] - best[:, 1] <= largest
        equal += int((~differs).sum())
        flips += int((differs & undecided).sum())
        wrong_flips += int((differs & ~undecided).sum())
    effect = _rms([its - base for its, base in zip(answers.reference, answers.untouched, strict=True)])
    error = _rms([its - mine for its, mine in pairs])
    return Proof(
        difference=largest / max(_rms(answers.reference), 1e-30),
        tolerance=TOLERANCES[dtype] * max(1.0, layers / DEPTH),
        positions=sum(len(its) for its in answers.reference),
        equal_tokens=equal,
        flips=flips,
        wrong_flips=wrong_flips,
        wrong_weights=wrong,
        lost=error / max(effect, 1e-30),
    )


def _rms(tensors: Sequence[Tensor]) -> float:
    """The root mean square over all elements."""
    return float((sum(t.double().square().sum() for t in tensors) / sum(t.numel() for t in tensors)) ** 0.5)


def require_equal(proof: Proof, place: str) -> None:
    """Nothing, if the proof holds.

    Raises: ModelError ``merge.not-equal``.
    """
    if proof.holds:
        return
    raise ModelError(
        "merge.not-equal",
        f"合并后的模型和底座 + 适配器不一样: 输出最多相差 {proof.difference:.2g} (允许 {proof.tolerance:.2g}), "
        f"{proof.positions} 处选词变了 {proof.wrong_flips} 处, {proof.wrong_weights} 个权重不对. 没有留下任何文件",
        place=place,
        hint="继续用底座 + 适配器 (hantune chat 适配器), 并把这条信息和 adapter_config.json 发给维护者",
    )
