"""Continuous batching: requests of many clients, answered together by one thread that owns the model.

A request waits in a bounded queue, joins the batch between two steps, and leaves it within one step of its end or its
cancellation. Requests under different adapters take turns, each adapter with a batch of its own.

    scheduler = Scheduler(engine, max_batch=32, max_queue=64)
    for event in scheduler.submit(Request(messages=messages)):
        ...
"""

from __future__ import annotations

import copy
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from hantune.data.types import Message
from hantune.errors import HantuneError, MachineError, RefusedError
from hantune.infer.decode import Decoder
from hantune.infer.engine import Engine
from hantune.infer.events import Done, EndReason, Event, Histogram, Logprob, Stream, Token
from hantune.infer.lane import Lane, Scored
from hantune.infer.sample import SamplingParams
from hantune.models.call import evaluating

__all__ = ["Done", "Event", "Histogram", "Logprob", "Request", "Scheduler", "Stats", "Stream", "Token"]

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

JOIN_SHARE = 4
"""When more wait than there is room for, they join when one part in this many is free: read together they cost less."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to answer: ``messages`` in the adapter's own template, or the ids ``prompt``, to be continued.

    ``adapter``: one of ``Engine.adapters``; None is the base alone.
    """

    messages: tuple[Message, ...] = ()
    prompt: tuple[int, ...] | None = None
    params: SamplingParams = field(default_factory=SamplingParams)
    adapter: str | None = None


@dataclass(kw_only=True)
class Stats:
    """Counts since the start; histograms are in seconds. ``finished``: answers by how they ended."""

    queued: int = 0
    running: int = 0
    submitted: int = 0
    finished: dict[EndReason, int] = field(default_factory=dict)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    is_alive: bool = True
    queue_seconds: Histogram = field(default_factory=lambda: Histogram(SECONDS))
    first_token_seconds: Histogram = field(default_factory=lambda: Histogram(SECONDS))
    token_seconds: Histogram = field(default_factory=lambda: Histogram(SECONDS))
    request_seconds: Histogram = field(default_factory=lambda: Histogram(SECONDS))

    def snapshot(self) -> Stats:
        return copy.deepcopy(self)


class _Job:
    """A request on its way: its lane, its reader, and what the reader was told."""

    def __init__(self, lane: Lane, adapter: str | None, stream: Stream) -> None:
        self.lane = lane
        self.adapter = adapter
        self.stream = stream
        self.told_ids = self.told_scores = 0
        self.last_at: float | None = None

    def done(self, reason: EndReason, error: HantuneError | None = None) -> Done:
        lane = self.lane
        return Done(
            finish_reason=reason,
            prompt_tokens=len(lane.prompt),
            completion_tokens=len(lane.ids),
            cached_tokens=lane.cached_tokens,
            error=error,
        )


class Scheduler:
    """Answers requests in a thread of its own. Nobody else may use the engine's model meanwhile."""

    def __init__(self, engine: Engine, *, max_batch: int = 32, max_queue: int = 64) -> None:
        self.engine = engine
        self.max_batch = max_batch
        self.max_queue = max_queue
        self._changed = threading.Condition()
        self._waiting: deque[_Job] = deque()
        self._running: dict[int, _Job] = {}
        self._cancelled: set[int] = set()
        self._decoders: dict[str | None, Decoder] = {}
        self._stats = Stats()
        self._ends_at: float | None = None
        self._thread = threading.Thread(target=self._run, name="hantune-scheduler", daemon=True)
        self._thread.start()

    def submit(self, request: Request) -> Stream:
        """The answer's stream; the prompt is tokenised here, in the caller's thread.

        Raises: RefusedError ``infer.prompt-too-long``, ``infer.no-adapter``, ``infer.queue-full``, ``infer.closed``.
        """
        return self.submit_all([request])[0]

    def submit_all(self, requests: Sequence[Request]) -> list[Stream]:
        """The streams of all requests, or of none where they do not fit the queue together.

        Requests with equal messages (the ``n`` of OpenAI's API, each with a seed of its own) read their prompt once.
        Raises: as ``submit``.
        """
        lanes = [self._lane(request) for request in requests]
        with self._changed:
            if self._ends_at is not None or not self._thread.is_alive():
                raise RefusedError("infer.closed", "服务正在停止, 不再接新的请求", hint="稍后再试, 或换一个服务")
            if len(self._waiting) + len(lanes) > self.max_queue + max(self.max_batch - len(self._running), 0):
                raise RefusedError(
                    "infer.queue-full",
                    f"排队已满: {len(self._running)} 个正在回答, {len(self._waiting)} 个在等, 最多 {self.max_queue} 个",
                    hint="稍后再试, 或用更大的 --max-queue 启动",
                )
            jobs = []
            for request, lane in zip(requests, lanes, strict=True):
                stream = Stream(self._stats.submitted, len(lane.prompt))
                self._stats.submitted += 1
                jobs.append(_Job(lane, request.adapter, stream))
            self._waiting += jobs
            self._changed.notify_all()
        return [job.stream for job in jobs]

    def cancel(self, stream: Stream) -> None:
        """End an answer within one step; nothing where it has ended. From any thread, any number of times."""
        with self._changed:
            if stream.id in self._running or any(job.stream is stream for job in self._waiting):
                self._cancelled.add(stream.id)
                self._changed.notify_all()

    def stats(self) -> Stats:
        """A copy of the counts as they stand."""
        with self._changed:
            stats = self._stats.snapshot()
            stats.queued, stats.running = len(self._waiting), len(self._running)
            stats.is_alive = self._thread.is_alive()
        return stats

    @property
    def is_closing(self) -> bool:
        """Whether new requests are refused."""
        return self._ends_at is not None

    def close(self, drain_seconds: float = 0.0) -> None:
        """Take no more requests, let those there are end within ``drain_seconds``, cancel the rest, stop the thread."""
        with self._changed:
            end = time.monotonic() + drain_seconds
            self._ends_at = end if self._ends_at is None else min(end, self._ends_at)
            self._changed.notify_all()
        self._thread.join()

    def _lane(self, request: Request) -> Lane:
        if request.prompt is not None:
            self.engine.require_adapter(request.adapter)
            return self.engine.continuation(request.prompt, request.params)
        return self.engine.lane(request.messages, request.params, adapter=request.adapter)

    # ---- the scheduler's thread --------------------------------------------------------------------------------------

    def _run(self) -> None:
        error: HantuneError | None = None
        try:
            with evaluating(self.engine.model):
                while self._wait():
                    self._turn()
        except BaseException as cause:
            error = _failure(cause)
            raise
        finally:
            with self._changed:
                self._ends_at = self._ends_at or time.monotonic()
                left = [*self._running.values(), *self._waiting]
                self._waiting.clear()
            self._decoders.clear()
            for job in left:
                self._end(job, "error" if error else "cancelled", error)

    def _wait(self) -> bool:
        """Sleep until there is something to do; False when it is time to stop."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._running or self._ends_at is not None)
            if self._ends_at is None:
                return True
            return time.monotonic() < self._ends_at and bool(self._waiting or self._running)

    def _turn(self) -> None:
        """One step: the cancelled leave, the waiting join, everybody whose prompt is read gets a token."""
        with self._changed:
            cancelled, self._cancelled = self._cancelled, set()
            gone = [job for job in [*self._running.values(), *self._waiting] if job.stream.id in cancelled]
            self._waiting = deque(job for job in self._waiting if job.stream.id not in cancelled)
            free = self.max_batch - len(self._running) + sum(job.stream.id in self._running for job in gone)
            is_crowded = len(self._waiting) > free and free < self.max_batch // JOIN_SHARE
            joining = [] if is_crowded else [self._waiting.popleft() for _ in range(min(free, len(self._waiting)))]
            self._running |= {job.stream.id: job for job in joining}
        for job in gone:
            if job.adapter in self._decoders:
                self._decoders[job.adapter].drop(job.lane)
            self._end(job, "cancelled")
        now = time.monotonic()
        for job in joining:
            self._stats.queue_seconds.seen(now - job.stream.submitted_at)
        for adapter in dict.fromkeys(job.adapter for job in self._running.values()):
            self._serve(adapter, [job for job in joining if job.adapter == adapter])

    def _serve(self, adapter: str | None, joining: Sequence[_Job]) -> None:
        """One step of the requests under one adapter. Where it fails, they end with the error and the others go on."""
        try:
            self.engine.use(adapter)
            if adapter not in self._decoders:
                self._decoders[adapter] = self.engine.decoder(self.engine.prefixes, adapter)
            decoder = self._decoders[adapter]
            if joining:
                decoder.add([job.lane for job in joining])
            decoder.step()
        except Exception as cause:
            self._decoders.pop(adapter, None)
            if self.engine.prefixes is not None:
                self.engine.prefixes.clear()
            error = _failure(cause)
            for job in [job for job in self._running.values() if job.adapter == adapter]:
                self._end(job, "error", error)
            return
        for job in [job for job in self._running.values() if job.adapter == adapter]:
            if job.lane.ids or job.lane.finish_reason:  # else its prompt is still being read
                self._tell(job)
        if decoder.is_idle:
            del self._decoders[adapter]  # with the memory that its busiest hour took

    def _tell(self, job: _Job) -> None:
        """Pass on what an answer has more than its reader knows."""
        lane, now = job.lane, time.monotonic()
        text, scores = lane.news(), lane.scores[job.told_scores :]
        ids = lane.ids[job.told_ids :]
        if text or scores or (ids and lane.finish_reason):
            job.told_ids, job.told_scores = len(lane.ids), len(lane.scores)
            job.stream.put(Token(text=text, ids=tuple(ids), logprobs=tuple(map(self._logprob, scores))))
        if job.last_at is None:
            self._stats.first_token_seconds.seen(now - job.stream.submitted_at)
        else:
            self._stats.token_seconds.seen(now - job.last_at)
        job.last_at = now
        if lane.finish_reason is not None:
            self._end(job, lane.finish_reason)

    def _logprob(self, scored: Scored) -> Logprob:
        piece = self.engine.piece
        top = tuple((token, piece(token), value) for token, value in scored.top)
        return Logprob(scored.id, piece(scored.id), scored.value, top)

    def _end(self, job: _Job, reason: EndReason, error: HantuneError | None = None) -> None:
        done = job.done(reason, error)
        with self._changed:
            self._running.pop(job.stream.id, None)
            stats = self._stats
            stats.finished[reason] = stats.finished.get(reason, 0) + 1
            stats.prompt_tokens += done.prompt_tokens
            stats.completion_tokens += done.completion_tokens
            stats.cached_tokens += done.cached_tokens
            stats.request_seconds.seen(time.monotonic() - job.stream.submitted_at)
        job.stream.put(done)


def _failure(cause: BaseException) -> HantuneError:
    """What the readers of the requests that failed are told."""
    if isinstance(cause, HantuneError):
        return cause
    error = MachineError(
        "infer.step-failed",
        f"生成时出错: {type(cause).__name__}: {cause}",
        hint="再试一次; 若是内存不够, 用更小的 --max-batch, 或更短的提示",
    )
    error.__cause__ = cause
    return error
