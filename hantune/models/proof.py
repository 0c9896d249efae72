"""The proof that a merged model is base + adapter: its weights, its logits and its greedy answers on probe prompts.

Three checks, because each is blind where another sees. Weights: each one is base + PEFT's own delta, correctly rounded;
this finds a wrong scale however small the adapter is. Logits: the files, names, shapes and ties make the same model.
Greedy answers: what a user sees. Shape letters: B probes, T positions, V vocabulary.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from hantune.data.types import Message
from hantune.errors import ModelError
from hantune.models.load import quiet_transformers

TOLERANCES = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 2e-1}
"""Largest logit difference allowed, in units of the logits' root mean square, by the dtype the weights are stored in.

Measured on correct merges of random Llamas and BLOOMs, computed in float32: at most 6e-6 for float32 (sums in another
order); for bfloat16 (each weight rounded to 8 bits) 4e-2 with 12 layers and 7e-2 with 22: it grows with depth. float16
has 3 bits more. This check is for lost layers, heads and ties; ``wrong_weights`` is the sharp one.
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
    wrong_weights: int
    """Weights that are not base + PEFT's delta, correctly rounded: never allowed."""
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


@torch.no_grad()
def answer(model: Any, prompts: Sequence[Sequence[int]], *, tokens: int = GREEDY_TOKENS) -> Answers:
    """The model's greedy continuations, and all its logits along them."""
    ids = _greedy(model, prompts, tokens)
    return Answers(ids=ids, logits=read_along(model, prompts, ids))


def _greedy(model: Any, prompts: Sequence[Sequence[int]], tokens: int) -> tuple[tuple[int, ...], ...]:
    """``tokens`` most likely ids in turn for each probe; the end mark does not stop them, so all are equally long."""
    from transformers import GenerationConfig

    width = max(map(len, prompts))
    padded = [[0] * (width - len(prompt)) + list(prompt) for prompt in prompts]
    seen = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    with quiet_transformers():
        out = model.generate(
            input_ids=torch.tensor(padded, device=model.device),
            attention_mask=torch.tensor(seen, device=model.device),
            generation_config=GenerationConfig(
                do_sample=False, max_new_tokens=tokens, min_new_tokens=tokens, pad_token_id=0, use_cache=True
            ),
        )
    return tuple(tuple(row) for row in out[:, width:].tolist())


@torch.no_grad()
def read_along(model: Any, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> tuple[Tensor, ...]:
    """For each probe the logits (float32, T x V) after each token of prompt + answer, the last one left out."""
    rows = [torch.tensor([*prompt, *ids][:-1]) for prompt, ids in zip(prompts, answers, strict=True)]
    tokens_BT = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)  # behind the end: causal models do not see it
    with in_float32(model):
        logits_BTV = model(input_ids=tokens_BT.to(model.device), use_cache=False).logits
    return tuple(logits_TV[: len(row)].float() for logits_TV, row in zip(logits_BTV, rows, strict=True))


@contextlib.contextmanager
def in_float32(model: torch.nn.Module) -> Iterator[None]:
    """Compute in float32 with weights stored in 16 bits, casting one layer's at a time.

    Two correct 16-bit computations of one model differ by up to 0.1 in these units (measured), which would hide a
    wrong merge; a whole float32 copy would double the memory.
    """
    stored: dict[torch.nn.Parameter, Tensor] = {}

    def widen(module: torch.nn.Module, _: Any) -> None:
        for parameter in module.parameters(recurse=False):
            stored[parameter] = parameter.data
            parameter.data = parameter.data.float()

    def narrow(module: torch.nn.Module, *_: Any) -> None:
        for parameter in module.parameters(recurse=False):
            parameter.data = stored.pop(parameter)

    owners = [m for m in model.modules() if any(p.dtype.itemsize < 4 for p in m.parameters(recurse=False))]
    hooks = [m.register_forward_pre_hook(widen) for m in owners] + [m.register_forward_hook(narrow) for m in owners]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def wrong_weights(tuned: Any, merged_weight: Callable[[str], Tensor]) -> int:
    """How many merged weights are not base + PEFT's delta rounded once, over all layers with LoRA.

    ``merged_weight(name)`` gives the merged tensor for a parameter name of the model.
    """
    from peft.tuners.lora import LoraLayer

    wrong = 0
    for name, module in tuned.get_base_model().named_modules():
        if isinstance(module, LoraLayer):
            base = module.get_base_layer().weight.detach().float()
            exact = base + module.get_delta_weight("default").detach().float()
            wrong += badly_rounded(exact, merged_weight(f"{name}.weight"))
    return wrong


def badly_rounded(exact: Tensor, rounded: Tensor) -> int:
    """How many elements lie further from ``exact`` (float32) than rounding to nearest can put them.

    The slack of 1e-6 of the largest weight is for float32 sums in another order.
    """
    kind = torch.finfo(rounded.dtype)
    size = exact.abs()
    allowed = size * (kind.eps / 2) + (kind.tiny * kind.eps + 1e-6 * float(size.max()))
    return int(((rounded.float() - exact).abs() > allowed).sum())


def compare(
    reference: Answers, untouched: Sequence[Tensor], merged: Sequence[Tensor], dtype: torch.dtype, *, wrong: int
) -> Proof:
    """The proof from logits along the reference's own answers: of base + adapter, of the base alone, and merged.

    As long as all choices agree, the merged model's greedy answer is the reference's, token by token.
    ``wrong``: what ``wrong_weights`` found.
    """
    gaps = [(its - mine).abs().max() for its, mine in zip(reference.logits, merged, strict=True)]
    largest = float(torch.stack(gaps).max())  # unlike max(), keeps a NaN, and no NaN is within the tolerance
    equal = flips = wrong_flips = 0
    for ids, its, mine in zip(reference.ids, reference.logits, merged, strict=True):
        its, mine = its[-len(ids) :], mine[-len(ids) :]
        differs = its.argmax(-1) != mine.argmax(-1)
        best = its.topk(2, dim=-1).values
        undecided = best[:, 0] - best[:, 1] <= largest
        equal += int((~differs).sum())
        flips += int((differs & undecided).sum())
        wrong_flips += int((differs & ~undecided).sum())
    effect = _rms([its - base for its, base in zip(reference.logits, untouched, strict=True)])
    error = _rms([its - mine for its, mine in zip(reference.logits, merged, strict=True)])
    return Proof(
        difference=largest / max(_rms(reference.logits), 1e-30),
        tolerance=TOLERANCES[dtype],
        positions=sum(len(its) for its in reference.logits),
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
        f"回答里 {proof.wrong_flips} 个词元变了, {proof.wrong_weights} 个权重不对. 没有留下任何文件",
        place=place,
        hint="继续用底座 + 适配器 (hantune chat 适配器), 并把这条信息和 adapter_config.json 发给维护者",
    )
