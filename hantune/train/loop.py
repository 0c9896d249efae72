"""The step loop: samples of the step -> micro-batches -> loss -> gradients -> update; evaluate, save, stop.

The number of finished steps is the whole cursor: which samples a step trains is a pure function of it (``data/pack``),
the learning rate too (``train/optim``). What else a checkpoint needs is weights, moments and the generators' states.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hantune.config.schema import TrainSection
from hantune.data.batch import Samples
from hantune.errors import Interrupted
from hantune.log import EventLog, console
from hantune.paths import RunFolder, quoted
from hantune.train import checkpoint as checkpoints
from hantune.train.feed import Feed
from hantune.train.guards import Guards
from hantune.train.heartbeat import Heartbeat
from hantune.train.meter import Meter
from hantune.train.optim import learning_rate_at
from hantune.train.plan import Plan
from hantune.train.room import Room
from hantune.train.step import Stepper, StepResult
from hantune.train.stop import StopRequest
from hantune.train.watchdog import WINDOW

if TYPE_CHECKING:
    from accelerate import Accelerator

Evaluate = Callable[[int], float | None]
"""Evaluate at a step, write its events and samples, return the held-out loss (None without held-out data)."""


Report = Callable[[dict[str, float], int], None]
"""Hand a step's figures to trackers."""


class Loop:
    """One run's training. ``step`` counts finished steps."""

    def __init__(
        self,
        *,
        model: nn.Module,
        samples: Samples,
        plan: Plan,
        section: TrainSection,
        pad_id: int,
        accelerator: Accelerator,
        run: RunFolder,
        events: EventLog,
        answers: EventLog,
        evaluate: Evaluate,
        report: Report = lambda values, step: None,
        log_every: int = 1,
    ) -> None:
        self.model = model
        self.stepper = Stepper(model, accelerator, section)
        self.parameters = self.stepper.parameters
        self.plan = plan
        self.step = 0
        self.meter = Meter()
        self.guards = Guards(self.parameters, section)
        self._feed = Feed(samples, plan, section, pad_id=pad_id)
        self.room = Room(self.stepper, self._feed, section, self._warn)
        self._section = section
        self._accelerator = accelerator
        self._run = run
        self._events = events
        self._answers = answers
        self._evaluate = evaluate
        self._report = report
        self._log_every = log_every
        self._heartbeat = Heartbeat(run.log)
        self._best: tuple[float, int] | None = None
        self._saved_step = -1
        self._due_since: int | None = None
        self.good_step = 0
        """The newest step whose checkpoint is good as far as the guards can tell; 0 = none yet."""

    def restore(self, checkpoint: checkpoints.Checkpoint) -> None:
        """Continue from a checkpoint: weights, moments, generators, logs, best."""
        self.restore_weights(checkpoint)
        self._restore_scaler(checkpoint.state)
        self._events.truncate(checkpoint.state["events_offset"])
        self._answers.truncate(checkpoint.state["samples_offset"])
        best = checkpoint.state["best"]
        self._best = None if best is None else (best["loss"], best["step"])
        self.guards.restore(checkpoint.state["guards"])
        self.room.most, self.good_step = checkpoint.state["most_positions"], checkpoint.state["good_step"]
        self.meter.tokens, self.meter.seconds = checkpoint.state["tokens"], checkpoint.state["seconds"]
        self.step = self._saved_step = checkpoint.step
        checkpoints.restore_rng(checkpoint.tensors("rng"))

    def restore_weights(self, checkpoint: checkpoints.Checkpoint) -> None:
        """Only what was learned: weights, and with the moments their averages."""
        checkpoints.restore_weights(self.parameters, checkpoint.tensors("weights"))
        checkpoints.restore_optimizer(
            self.stepper.optimizer.optimizer, self.parameters, checkpoint.tensors("optimizer")
        )

    def train(self) -> None:
        """Train to the end of the plan.

        Raises: Interrupted after a signal, with a checkpoint saved; the TrainErrors of ``Room`` and ``Guards``.
        """
        self.model.train()
        total = self.plan.total_steps
        with (
            StopRequest() as stop,
            self._heartbeat,
            console.progress("训练", total, unit="步", done=self.step) as bar,
        ):
            self._begin()
            while self.step < total and stop.signal is None:
                self.meter.start()
                rate = learning_rate_at(self.step, total, self._section)
                self.stepper.set_learning_rate(rate)
                with self._heartbeat.on("step", f"第 {self.step + 1} 步", self.room.describe(self.step)):
                    result = self.room.train(self.step)
                seconds = self.meter.stop(result.tokens)
                self.step += 1
                self._record(result, rate, seconds)
                self._guard(result)
                bar.advance(note=f"损失 {result.loss:.3f}  {self.meter.tokens_per_second:.0f} 词元/秒")
                self._evaluate_and_save()
        if stop.signal is not None and self.step < total:
            console.say("收到停止信号: 保存检查点")
            self.save()
            raise Interrupted(
                stop.signal, f"停在第 {self.step} 步, 检查点已保存", hint=f"hantune resume {quoted(self._run.root)}"
            )

    def _begin(self) -> None:
        """What comes before the first step of a process."""
        if self.step < self.plan.total_steps:
            with self._heartbeat.on("trial", "试跑最大的一批, 看内存够不够"):
                self.room.try_largest(self.step)
        if self.step == 0:
            torch.manual_seed(self._section.seed)
            self.guards.start()
            self._evaluate_now()

    def _guard(self, result: StepResult) -> None:
        samples = self._feed.samples_of_step(self.step - 1)
        findings = self.guards.see(
            self.step, result, last_good=self.good_step, sources=lambda: self._feed.sources(samples)
        )
        for finding in findings:
            self._warn(finding.code, finding.text, step=self.step, sources=finding.sources)

    def _warn(self, code: str, text: str, **values: Any) -> None:
        console.warn(text)
        self._events.write("warning", code=code, text=text, **values)

    def _record(self, result: StepResult, rate: float, seconds: float) -> None:
        if self.step % self._log_every == 0 or self.step == self.plan.total_steps:
            self._events.write(
                "step",
                step=self.step,
                loss=result.loss,
                learning_rate=rate,
                grad_norm=result.grad_norm,
                tokens=result.tokens,
                supervised=result.supervised,
                seconds=round(seconds, 4),
            )
            self._report({"loss": result.loss, "learning_rate": rate, "grad_norm": result.grad_norm}, self.step)

    def _evaluate_and_save(self) -> None:
        is_last = self.step == self.plan.total_steps
        improved = False
        if is_last or self.step % self.plan.eval_every == 0:
            improved = self._evaluate_now()
        if is_last or improved or self._is_save_due():
            self.save()

    def _is_save_due(self) -> bool:
        """Whether to save by the calendar. A state that may be bad is left for later, unless it stays like that."""
        if self._due_since is None and self.step % self.plan.save_every == 0:
            self._due_since = self.step
        if self._due_since is None:
            return False
        return not self.guards.is_suspect or self.step - self._due_since >= WINDOW

    def _evaluate_now(self) -> bool:
        """Evaluate; whether this is the best trained state so far."""
        with self._heartbeat.on("evaluate", f"第 {self.step} 步的评测"), self.stepper.ema.taken():
            loss = self._evaluate(self.step)
        self.model.train()
        if loss is not None and self.step == 0:
            self.guards.expect(loss)
        if loss is None or self.step == 0 or (self._best is not None and loss >= self._best[0]):
            return False
        self._best = (loss, self.step)
        return True

    def save(self) -> None:
        """A checkpoint of this step boundary, unless it is already there."""
        self._due_since = None
        if self._saved_step == self.step:
            return
        if not self.guards.is_suspect:
            self.good_step = self.step
        self._events.write("checkpoint", step=self.step)
        names = {id(parameter): name for name, parameter in self.parameters.items()}
        parts: dict[str, Mapping[str, Tensor]] = {
            "weights": dict(self.parameters),
            "optimizer": checkpoints.optimizer_tensors(self.stepper.optimizer.optimizer, names),
            "rng": checkpoints.rng_tensors(),
        }
        checkpoints.save_checkpoint(
            self._run,
            self.step,
            parts,
            self._state(),
            keep=self._section.keep_checkpoints,
            is_best=self._best is not None and self._best[1] == self.step,
        )
        self._saved_step = self.step

    def _state(self) -> dict[str, Any]:
        scaler = self._accelerator.scaler
        return {
            "best": None if self._best is None else {"loss": self._best[0], "step": self._best[1]},
            "guards": self.guards.state(),
            "most_positions": self.room.most,
            "good_step": self.good_step,
            "tokens": self.meter.tokens,
            "seconds": self.meter.seconds,
            "events_offset": self._events.offset(),
            "samples_offset": self._answers.offset(),
            "scaler": None if scaler is None else scaler.state_dict(),
        }

    def _restore_scaler(self, state: dict[str, Any]) -> None:
        if self._accelerator.scaler is not None and state["scaler"] is not None:
            self._accelerator.scaler.load_state_dict(state["scaler"])

    @property
    def best(self) -> tuple[float, int] | None:
        """The lowest held-out loss and its step."""
        return self._best
