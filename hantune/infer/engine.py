"""Messages to answers: our own prefill and decode loop over a transformers model with its key-value cache.

Laws: cached decoding chooses what a full forward would choose; a batch answers what one by one would answer; streamed
text joined is the whole text; greedy decoding draws no random number.
Shape letters: B answers in progress, T positions, V vocabulary.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from hantune.data.types import Message, Rendered
from hantune.errors import RefusedError
from hantune.infer.sample import SamplingParams, next_token
from hantune.infer.stream import Pieces, TextStream
from hantune.models.call import bare_model, evaluating, model_inputs, takes

if TYPE_CHECKING:
    from hantune.data.templates.base import Template
    from hantune.data.tokens import Encoder

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, kw_only=True)
class Completion:
    """One answer. ``ids`` are its tokens without the stop token; ``stop``: it ended by itself, ``length``: cut off."""

    text: str
    ids: tuple[int, ...]
    finish_reason: FinishReason
    prompt_tokens: int

    @property
    def usage(self) -> dict[str, int]:
        """Token counts in OpenAI's words."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": len(self.ids),
            "total_tokens": self.prompt_tokens + len(self.ids),
        }


class _Lane:
    """One answer in progress."""

    def __init__(
        self, prompt: list[int], room: int, stop_ids: frozenset[int], stream: TextStream, params: SamplingParams
    ) -> None:
        self.prompt = prompt
        self.ids: list[int] = []
        self.texts: list[str] = []
        self.finish_reason: FinishReason | None = None
        self._room = room
        self._stop_ids = stop_ids
        self._stream = stream
        self._params = params
        self._generator = params.generator()

    def choose(self, logits_V: Tensor) -> int:
        """The next id under this answer's own parameters and chance."""
        return next_token(logits_V, self._params, self._generator, [*self.prompt, *self.ids])

    @property
    def is_plain(self) -> bool:
        """Whether the likeliest token is always taken, so that all rows can be chosen at once."""
        return self._params.is_greedy and self._params.repetition_penalty == 1

    def take(self, token: int) -> None:
        """One more token: text, or the end."""
        if token in self._stop_ids:
            self._end("stop")
            return
        self.ids.append(token)
        self.texts.append(self._stream.feed(token))
        if self._stream.stopped:
            self._end("stop")
        elif len(self.ids) == self._room:
            self._end("length")

    def _end(self, reason: FinishReason) -> None:
        self.finish_reason = reason
        self.texts.append(self._stream.finish())

    def completion(self) -> Completion:
        return Completion(
            text="".join(self.texts),
            ids=tuple(self.ids),
            finish_reason=self.finish_reason or "length",
            prompt_tokens=len(self.prompt),
        )


class Engine:
    """A model that answers. It may be a PEFT model, and one that is being trained: modes are put back afterwards."""

    def __init__(
        self, model: Any, encoder: Encoder, template: Template, *, name: str = "", adapter: str | None = None
    ) -> None:
        self.model = model
        self.encoder = encoder
        self.template = template
        self.name = name
        self.adapter = adapter
        self.limit: int | None = getattr(bare_model(model).config, "max_position_embeddings", None)
        """Tokens of prompt and answer together; None where the architecture sets no limit (BLOOM)."""
        self._pieces = Pieces(encoder)

    def render(self, messages: Sequence[Message]) -> Rendered:
        """The exact text that the model is given."""
        return self.template.render(messages, self.encoder.marks)

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """The ids that the model is given."""
        return self.encoder.prompt(self.render(messages))

    def fit(self, messages: Sequence[Message], params: SamplingParams) -> list[Message]:
        """``messages`` without as many of the oldest whole turns as the context cannot hold beside an answer.

        The system message and the last question always stay.
        """
        kept = list(messages)
        if self.limit is None:
            return kept
        most = self.limit - min(params.max_tokens, self.limit // 4)
        first = 1 if kept and kept[0].role == "system" else 0
        while len(kept) > first + 2 and len(self.prompt_ids(kept)) > most:
            del kept[first : first + 2]
        return kept

    def stream(
        self, messages: Sequence[Message], params: SamplingParams | None = None
    ) -> Generator[str, None, Completion]:
        """The answer piece by piece; the generator's return value is the whole. Closing it stops the model.

        Raises: RefusedError ``infer.prompt-too-long``.
        """
        lane = self._lane(messages, params or SamplingParams())
        told = 0
        with contextlib.closing(self._run([lane])) as steps:
            for _ in steps:
                text = "".join(lane.texts[told:])
                told = len(lane.texts)
                if text:
                    yield text
        return lane.completion()

    def answer(self, messages: Sequence[Message], params: SamplingParams | None = None) -> Completion:
        """The whole answer."""
        return self.answer_many([messages], params)[0]

    def answer_many(
        self,
        many: Sequence[Sequence[Message]],
        params: SamplingParams | None = None,
        batch_size: int = 8,
        *,
        seeds: Sequence[int] | None = None,
        advance: Callable[[int], None] | None = None,
    ) -> list[Completion]:
        """Answers in the order asked. Prompts of like length share a batch; the batching changes no answer.

        ``seeds``: one per conversation, else each takes ``params.seed``. ``advance`` hears how many are done.
        Raises: RefusedError ``infer.prompt-too-long`` before anything is computed.
        """
        params = params or SamplingParams()
        lanes = [
            self._lane(messages, params if seeds is None else replace(params, seed=seeds[number]))
            for number, messages in enumerate(many)
        ]
        by_length = sorted(lanes, key=lambda lane: -len(lane.prompt))
        for start in range(0, len(by_length), batch_size):
            batch = by_length[start : start + batch_size]
            for _ in self._run(batch):
                pass
            if advance:
                advance(len(batch))
        return [lane.completion() for lane in lanes]

    @contextlib.contextmanager
    def without_adapter(self) -> Iterator[None]:
        """Answers inside come from the base model alone; nothing changes where there is no adapter."""
        disable = getattr(self.model, "disable_adapter", None)
        with disable() if disable else contextlib.nullcontext():
            yield

    def refusal(self, prompt: Sequence[int]) -> RefusedError | None:
        """Why a prompt leaves no room for an answer; None where it leaves some."""
        if self.limit is None or len(prompt) < self.limit:
            return None
        return RefusedError(
            "infer.prompt-too-long",
            f"提示有 {len(prompt)} 个词元, 模型最多能看 {self.limit} 个, 没有地方放回答了",
            hint="缩短问题, 去掉前面的几轮, 或换一个上下文更长的模型",
        )

    def _lane(self, messages: Sequence[Message], params: SamplingParams) -> _Lane:
        rendered = self.render(messages)
        prompt = self.encoder.prompt(rendered)
        if refusal := self.refusal(prompt):
            raise refusal
        room = params.max_tokens if self.limit is None else min(params.max_tokens, self.limit - len(prompt))
        # A stop that is a token of its own never shows in the text; one that is words can only be found there.
        stops = [stop for stop in rendered.stops if not self.encoder.stop_ids((stop,))]
        stream = TextStream(self._pieces, (*stops, *params.stops), strip=True)
        return _Lane(prompt, room, self._stop_ids(rendered), stream, params)

    def _stop_ids(self, rendered: Rendered) -> frozenset[int]:
        """The template's stop tokens, the tokenizer's end, and the ends the model itself names."""
        settings = getattr(bare_model(self.model), "generation_config", None)
        own = getattr(settings, "eos_token_id", None)
        ends = own if isinstance(own, list) else [own]
        found = {*self.encoder.stop_ids(rendered.stops), *ends, self.encoder.tokenizer.eos_token_id}
        return frozenset(token for token in found if token is not None)

    def _run(self, lanes: Sequence[_Lane]) -> Generator[None, None, None]:
        """Answer all ``lanes`` together; yields after every token, when the lanes hold their new text."""
        bare = bare_model(self.model)
        with evaluating(self.model):
            tokens_BT, mask_BT = _left_padded([lane.prompt for lane in lanes], self.encoder.pad_id, bare.device)
            cache: Any = None
            while True:
                logits_BV, cache = _forward(bare, tokens_BT, mask_BT, cache)
                chosen = _choose(lanes, logits_BV[:, : self._pieces.end])
                for lane, token in zip(lanes, chosen, strict=True):
                    lane.take(token)
                yield
                going = [row for row, lane in enumerate(lanes) if lane.finish_reason is None]
                if not going:
                    return
                tokens_BT = torch.tensor([[chosen[row]] for row in going], device=bare.device)
                if len(going) < len(lanes):
                    rows = torch.tensor(going, device=bare.device)
                    cache.batch_select_indices(rows)
                    mask_BT = None if mask_BT is None else mask_BT[rows]
                    lanes = [lanes[row] for row in going]
                if mask_BT is not None:
                    mask_BT = torch.cat([mask_BT, mask_BT.new_ones(len(lanes), 1)], dim=1)


def _choose(lanes: Sequence[_Lane], logits_BV: Tensor) -> list[int]:
    """The next id of every lane, with one wait for the device where all are greedy."""
    if all(lane.is_plain for lane in lanes):
        return list(map(int, logits_BV.argmax(1).tolist()))
    return [lane.choose(logits_V) for lane, logits_V in zip(lanes, logits_BV, strict=True)]


def _left_padded(prompts: Sequence[list[int]], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor | None]:
    """Prompts that all end at the last column, and their mask (None when all are equally long)."""
    width = max(len(prompt) for prompt in prompts)
    tokens_BT = torch.tensor([[pad_id] * (width - len(prompt)) + prompt for prompt in prompts], device=device)
    if all(len(prompt) == width for prompt in prompts):
        return tokens_BT, None
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return tokens_BT, torch.tensor(mask, device=device)


@torch.no_grad()
def _forward(bare: Any, tokens_BT: Tensor, mask_BT: Tensor | None, cache: Any) -> tuple[Tensor, Any]:
    """Logits of the last position, [B, V], and the cache grown by ``tokens_BT``."""
    positions_BT = None
    if mask_BT is not None:
        positions_BT = (mask_BT.cumsum(1) - 1).clamp(min=0)[:, -tokens_BT.shape[1] :]
    inputs = model_inputs(bare, tokens_BT, mask_BT=mask_BT, positions_BT=positions_BT, use_cache=True, cache=cache)
    if takes(bare, "logits_to_keep"):
        inputs["logits_to_keep"] = 1
    output = bare(**inputs)
    return output.logits[:, -1], output.past_key_values


def open_engine(
    path: str | Path,
    *,
    adapter: str | Path | None = None,
    base: str | Path | None = None,
    device: str = "auto",
    dtype: torch.dtype | None = None,
    load: str = "full",
) -> Engine:
    """The engine of a model, adapter or run folder, or of a hub name, with the template it was trained with.

    ``dtype`` None: float32 on a CPU, bfloat16 on a card that has it, else float16. ``load``: ``full``, ``8bit`` or
    ``4bit`` weights; an adapter stays in full precision on top of them.
    Raises: what ``models.locate`` and ``models.load`` raise.
    """
    from hantune.data.tokens import Encoder
    from hantune.models.adapter import load_adapter
    from hantune.models.load import load_model, load_tokenizer
    from hantune.models.locate import locate

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    located = locate(path, adapter=adapter, base=base)
    model = load_model(located.base, dtype=dtype or default_dtype(device), device=device, load=load)
    if located.adapter is not None:
        model = load_adapter(model, located.adapter)
    encoder = Encoder(load_tokenizer(located.tokenizer_path))
    adapter_name = None if located.adapter is None else str(located.adapter)
    return Engine(model, encoder, located.template, name=str(located.base), adapter=adapter_name)


def default_dtype(device: str) -> torch.dtype:
    """The precision that answers are computed in unless told otherwise."""
    if not device.startswith("cuda"):
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
