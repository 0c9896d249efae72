"""Messages to answers: a model, its tokenizer and its template, one question or many at a time.

Laws: a batch answers what one by one would answer; streamed text joined is the whole text; greedy decoding draws no
random number. The steps of the model are ``decode.py``'s.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from hantune.data.types import Message, Rendered, Segment
from hantune.errors import RefusedError
from hantune.infer.adapters import Adapters
from hantune.infer.cache import is_keys_and_values
from hantune.infer.decode import CachedDecoder, Decoder, Rereader
from hantune.infer.lane import Completion, Lane
from hantune.infer.prefix import PrefixStore
from hantune.infer.sample import SamplingParams
from hantune.infer.stream import Pieces, TextStream
from hantune.log import console, size
from hantune.models.call import bare_model, evaluating
from hantune.models.memory import free_memory
from hantune.models.prepack import prepack, unpack

if TYPE_CHECKING:
    from hantune.data.templates.base import Template
    from hantune.data.tokens import Encoder

__all__ = ["Completion", "Engine", "default_dtype", "open_engine"]

PREFIX_BYTES = 256 * 2**20
"""Keys and values of earlier turns that a chat or a server keeps, so that a history is read once."""
JOIN_SHARE = 4
"""Waiting answers join a batch when one part in this many of it is free."""


class Engine:
    """A model that answers. It may be a PEFT model, and one that is being trained: modes are put back afterwards."""

    def __init__(
        self,
        model: Any,
        encoder: Encoder,
        template: Template,
        *,
        name: str = "",
        adapter: str | None = None,
        load: str = "full",
        is_frozen: bool = False,
    ) -> None:
        """``is_frozen``: the model's weights are never changed by others, so it may lay them out as it likes."""
        self.encoder = encoder
        self.template = template
        self.name = name
        self.adapter = adapter
        self.load = load
        self.limit: int | None = getattr(bare_model(model).config, "max_position_embeddings", None)
        """Tokens of prompt and answer together; None where the architecture sets no limit (BLOOM)."""
        self.prefixes: PrefixStore | None = None
        """What ``stream`` remembers of earlier turns; None for a model whose weights may change between two answers."""
        self._adapters = Adapters(model, template)
        self._is_frozen = is_frozen
        self._is_ready = not is_frozen
        self._pieces = Pieces(encoder)

    @property
    def model(self) -> Any:
        return self._adapters.model

    @property
    def adapters(self) -> tuple[str, ...]:
        """The names that ``use`` takes; () for a bare base."""
        return self._adapters.names

    def load_adapter(self, name: str, folder: str | Path) -> None:
        """One more adapter of the same base, in memory beside the others; the one at work stays.

        Raises: ConfigError ``infer.adapter-name``; ModelError ``infer.other-tokenizer``, ``adapter.*``.
        """
        if self._is_frozen:
            unpack(self.model)  # PEFT looks at the weights that an adapter is for
            self._is_ready = False
        self._adapters.load(name, Path(folder), base=self.name, encoder=self.encoder)

    def get_ready(self) -> None:
        """Lay the weights out for quick products, where that pays; the first answer does it otherwise."""
        if not self._is_ready:
            free = free_memory(bare_model(self.model).device)
            prepack(self.model, most_added=None if free is None else free // 2)
            self._is_ready = True

    def use(self, adapter: str | None) -> None:
        """From now on answers come from this adapter, or from the base alone (None)."""
        self._adapters.use(adapter)

    def require_adapter(self, adapter: str | None) -> None:
        """Nothing, if there is this adapter.

        Raises: RefusedError ``infer.no-adapter``.
        """
        self._adapters.template(adapter)

    def render(self, messages: Sequence[Message], adapter: str | None = None) -> Rendered:
        """The exact text that the model is given, in the template of ``adapter`` (None: the engine's own).

        Raises: RefusedError ``infer.no-adapter``.
        """
        return self._adapters.template(adapter).render(messages, self.encoder.marks)

    def prompt_ids(self, messages: Sequence[Message], adapter: str | None = None) -> list[int]:
        """The ids that the model is given."""
        return self.encoder.prompt(self.render(messages, adapter))

    def text_ids(self, text: str) -> list[int]:
        """The ids of plain text, after the beginning mark where the tokenizer adds one; control tokens stay text."""
        mark = self.encoder.marks.bos
        head = (Segment(mark, learn=False, control=True),) if mark else ()
        return self.encoder.prompt(Rendered(segments=(*head, Segment(text, learn=False))))

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
        lane = self.lane(messages, params)
        decoder = self.decoder(self.prefixes, self._adapters.active)
        with evaluating(self.model):
            decoder.add([lane])
            while lane.finish_reason is None:
                decoder.step()
                if text := lane.news():
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
        """Answers in the order asked; the batching changes no answer.

        ``seeds``: one per conversation, else each takes ``params.seed``. ``advance`` hears how many are done.
        Raises: RefusedError ``infer.prompt-too-long`` before anything is computed.
        """
        found: dict[int, Completion] = {}
        for number, completion in self.answer_each(many, params, batch_size, seeds=seeds):
            found[number] = completion
            if advance:
                advance(1)
        return [found[number] for number in range(len(many))]

    def answer_each(
        self,
        many: Sequence[Sequence[Message]],
        params: SamplingParams | None = None,
        batch_size: int = 8,
        *,
        seeds: Sequence[int] | None = None,
    ) -> Iterator[tuple[int, Completion]]:
        """(number of the conversation, its answer) as soon as it is there; ``batch_size`` are in progress at a time.

        Long prompts come first, and where some answers have ended, others take their places.
        Raises: RefusedError ``infer.prompt-too-long`` before anything is computed.
        """
        params = params or SamplingParams()
        lanes = [
            (number, self.lane(messages, params if seeds is None else replace(params, seed=seeds[number])))
            for number, messages in enumerate(many)
        ]
        return self.finish(sorted(lanes, key=lambda lane: -len(lane[1].prompt)), batch_size)

    def finish(self, lanes: Iterable[tuple[int, Lane]], batch_size: int) -> Iterator[tuple[int, Completion]]:
        """Run ``lanes`` to their ends, ``batch_size`` at a time in the order given; (number, answer) as they end.

        Newcomers wait until a few places are free: read together they cost less.
        """
        waiting = iter(lanes)
        running: dict[int, Lane] = {}
        decoder = self.decoder()
        with evaluating(self.model):
            while True:
                free = batch_size - len(running)
                joining = dict(islice(waiting, free)) if free >= -(-batch_size // JOIN_SHARE) else {}
                if joining:
                    running |= joining
                    decoder.add(list(joining.values()))
                if not running:
                    return
                decoder.step()
                for number in [number for number, lane in running.items() if lane.finish_reason is not None]:
                    yield number, running.pop(number).completion()

    @contextlib.contextmanager
    def without_adapter(self) -> Iterator[None]:
        """Answers inside come from the base model alone; nothing changes where there is no adapter."""
        active = self._adapters.active
        self.use(None)
        try:
            yield
        finally:
            self.use(active)

    def refusal(self, prompt: Sequence[int]) -> RefusedError | None:
        """Why a prompt leaves no room for an answer; None where it leaves some."""
        if self.limit is None or len(prompt) < self.limit:
            return None
        return RefusedError(
            "infer.prompt-too-long",
            f"提示有 {len(prompt)} 个词元, 模型最多能看 {self.limit} 个, 没有地方放回答了",
            hint="缩短问题, 去掉前面的几轮, 或换一个上下文更长的模型",
        )

    def lane(
        self, messages: Sequence[Message], params: SamplingParams | None = None, *, adapter: str | None = None
    ) -> Lane:
        """An answer that has not begun, to ``messages`` in the template of ``adapter`` (default: the engine's).

        Raises: RefusedError ``infer.prompt-too-long``.
        """
        rendered = self.render(messages, adapter)
        # A stop that is a token of its own never shows in the text; one that is words can only be found there.
        stops = tuple(stop for stop in rendered.stops if not self.encoder.stop_ids((stop,)))
        params = params or SamplingParams()
        stream = TextStream(self._pieces, (*stops, *params.stops), strip=True)
        return self._begin(self.encoder.prompt(rendered), rendered.stops, stream, params)

    def continuation(self, prompt: Sequence[int], params: SamplingParams) -> Lane:
        """An answer that has not begun and goes on where the ids of ``prompt`` end; no template stops it.

        Raises: RefusedError ``infer.prompt-too-long``.
        """
        return self._begin(prompt, (), TextStream(self._pieces, params.stops, goes_on=True), params)

    def _begin(self, prompt: Sequence[int], stops: Sequence[str], stream: TextStream, params: SamplingParams) -> Lane:
        if refusal := self.refusal(prompt):
            raise refusal
        room = params.max_tokens if self.limit is None else min(params.max_tokens, self.limit - len(prompt))
        return Lane(prompt, room, self._stop_ids(stops), stream, params)

    def _stop_ids(self, stops: Sequence[str]) -> frozenset[int]:
        """The template's stop tokens, the tokenizer's end, and the ends the model itself names."""
        settings = getattr(bare_model(self.model), "generation_config", None)
        own = getattr(settings, "eos_token_id", None)
        ends = own if isinstance(own, list) else [own]
        found = {*self.encoder.stop_ids(stops), *ends, self.encoder.tokenizer.eos_token_id}
        return frozenset(token for token in found if token is not None)

    def decoder(
        self, prefixes: PrefixStore | None = None, adapter: str | None = None, *, is_watched: bool = False
    ) -> Decoder:
        """An empty place for answers in progress; ``is_watched``: a long prompt may not hold up the others."""
        self.get_ready()
        bare = bare_model(self.model)
        settings = {"pad_id": self.encoder.pad_id, "num_pieces": self._pieces.end}
        if is_keys_and_values(bare.config):
            return CachedDecoder(bare, **settings, prefixes=prefixes, adapter=adapter, is_watched=is_watched)
        return Rereader(bare, **settings)

    def piece(self, token: int) -> bytes:
        """The bytes that a token stands for; none for a control token."""
        return self._pieces[token]


def open_engine(
    path: str | Path,
    *,
    adapter: str | Path | None = None,
    base: str | Path | None = None,
    device: str = "auto",
    dtype: torch.dtype | None = None,
    load: str | None = None,
) -> Engine:
    """The engine of a model, adapter or run folder, or of a hub name, with the template it was trained with.

    ``dtype`` None: float32 on a CPU, bfloat16 on a card that has it, else float16. ``load``: ``full``, ``8bit`` or
    ``4bit`` weights; None: as they were while the adapter was trained. An adapter stays in full precision on top.
    Raises: what ``models.locate`` and ``models.load`` raise.
    """
    from hantune.data.tokens import Encoder
    from hantune.models.adapter import load_adapter
    from hantune.models.footprint import held_bytes, weight_bytes
    from hantune.models.load import load_model, load_tokenizer
    from hantune.models.locate import locate
    from hantune.models.quantize import round_linears

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    located = locate(path, adapter=adapter, base=base)
    rounding = located.quantization if load is None else None
    load = load or located.load
    dtype = dtype or default_dtype(device)
    model = load_model(located.base, dtype=dtype, device=device, load=load)
    if load == "full" and rounding is not None:
        round_linears(model, rounding)
    if load != "full":
        whole = weight_bytes(Path(located.base), load="full", dtype=dtype)
        console.say(f"底座按 {load} 装入: 权重占 {size(held_bytes(model))} (原样 {size(whole)})")
    if located.adapter is not None:
        model = load_adapter(model, located.adapter)
    encoder = Encoder(load_tokenizer(located.tokenizer_path))
    engine = Engine(
        model,
        encoder,
        located.template,
        name=str(located.base),
        adapter=None if located.adapter is None else str(located.adapter),
        load=load,
        is_frozen=True,
    )
    engine.prefixes = PrefixStore(PREFIX_BYTES)
    return engine


def default_dtype(device: str) -> torch.dtype:
    """The precision that answers are computed in unless told otherwise."""
    if not device.startswith("cuda"):
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
