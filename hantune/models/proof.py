"""The proof that a merged model answers as base + adapter did: logits and greedy answers on probe prompts.

Shape letters: T positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from hantune.data.types import Message
from hantune.errors import ModelError

TOLERANCES = {torch.float32: 1e-4, torch.float64: 1e-4, torch.bfloat16: 2e-2, torch.float16: 2e-2}
"""Largest logit difference allowed, in units of the logits' root mean square.

float32 rounds at 6e-8, and sums of some thousand terms in another order stay some hundred times below 1e-4. bfloat16
keeps 8 bits (one rounding is up to 4e-3), and base + adapter is itself only computed to that precision: what two
correct ways of computing the same model differ by is about half of 2e-2, while a wrong scale or a lost layer is far
beyond it. float16 is held to the same.
"""
PROBES = ("你好", "今天心情不太好, 怎么办?", "Please introduce yourself in one sentence.")
GREEDY_TOKENS = 24


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What one model says to the probes: greedy continuation ids, and the logits (float32, T x V) of each step."""

    ids: tuple[tuple[int, ...], ...]
    logits: tuple[Tensor, ...]


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

    @property
    def holds(self) -> bool:
        return self.difference <= self.tolerance and self.wrong_flips == 0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"holds": self.holds}


def probe_ids(tokenizer: Any, template: Any) -> list[list[int]]:
    """The probe prompts as the model is asked at serving: through its template."""
    from hantune.data.tokens import Encoder

    encoder = Encoder(tokenizer)
    return [encoder.prompt(template.render([Message(role="user", text=text)], encoder.marks)) for text in PROBES]


@torch.no_grad()
def answer(model: Any, prompts: Sequence[Sequence[int]], *, tokens: int = GREEDY_TOKENS) -> Answers:
    """The model's greedy continuations and all its logits along them."""
    ids = tuple(tuple(_greedy(model, prompt, tokens)) for prompt in prompts)
    return Answers(ids=ids, logits=tuple(read_along(model, p, a) for p, a in zip(prompts, ids, strict=True)))


def _greedy(model: Any, prompt: Sequence[int], tokens: int) -> list[int]:
    """``tokens`` most likely ids in turn; the end mark does not stop it, so that every probe is equally long."""
    answer_ids: list[int] = []
    step, cache = torch.tensor([list(prompt)], device=model.device), None
    for _ in range(tokens):
        out = model(input_ids=step, past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        step = out.logits[:, -1:].argmax(-1)
        answer_ids.append(int(step))
    return answer_ids


@torch.no_grad()
def read_along(model: Any, prompt: Sequence[int], answer_ids: Sequence[int]) -> Tensor:
    """Logits (float32, T x V) after each token of prompt + answer, the last one left out."""
    ids = torch.tensor([[*prompt, *answer_ids][:-1]], device=model.device)
    logits: Tensor = model(input_ids=ids, use_cache=False).logits[0].float()
    return logits


def compare(reference: Answers, merged: Sequence[Tensor], dtype: torch.dtype) -> Proof:
    """The merged model's logits along the reference's own answers, against the reference's.

    As long as all choices agree the merged model's greedy answer is the reference's, token by token.
    """
    pairs = list(zip(reference.ids, reference.logits, merged, strict=True))
    if not all(bool(torch.isfinite(logits_TV).all()) for logits_TV in (*reference.logits, *merged)):
        return Proof(
            difference=float("inf"), tolerance=TOLERANCES[dtype], positions=0, equal_tokens=0, flips=0, wrong_flips=0
        )
    largest = max(float((mine - its).abs().max()) for _, its, mine in pairs)
    squares = sum(float(its.double().square().sum()) for _, its, _ in pairs)
    rms = (squares / sum(its.numel() for _, its, _ in pairs)) ** 0.5
    equal = flips = wrong = 0
    for ids, its, mine in pairs:
        its, mine = its[-len(ids) :], mine[-len(ids) :]
        differs = its.argmax(-1) != mine.argmax(-1)
        best = its.topk(2, dim=-1).values
        undecided = (best[:, 0] - best[:, 1]) <= largest
        equal += int((~differs).sum())
        flips += int((differs & undecided).sum())
        wrong += int((differs & ~undecided).sum())
    return Proof(
        difference=largest / rms if rms else float("inf"),
        tolerance=TOLERANCES[dtype],
        positions=sum(len(its) for _, its, _ in pairs),
        equal_tokens=equal,
        flips=flips,
        wrong_flips=wrong,
    )


def require_equal(proof: Proof, place: str) -> None:
    """Nothing, if the proof holds.

    Raises: ModelError ``merge.not-equal``.
    """
    if proof.holds:
        return
    raise ModelError(
        "merge.not-equal",
        f"合并后的模型和底座 + 适配器不一样: 输出最多相差 {proof.difference:.2g} (允许 {proof.tolerance:.2g}), "
        f"有 {proof.wrong_flips} 个词元变了. 没有留下任何文件",
        place=place,
        hint="继续用底座 + 适配器 (hantune chat 适配器), 并把这条信息和 adapter_config.json 发给维护者",
    )
