"""The step loop: samples of the step -> micro-batches -> loss -> gradients -> update; evaluate, save, stop.

The number of finished steps is the whole cursor: which samples a step trains is a pure function of it
(``train/course``), the learning rate too (``train/optim``). What else a checkpoint needs is weights, the optimiser's
state and the generators'. It is written by a thread while the run goes on (``train/saver``). Its event is written once
it is on disk: behind the place to which a resumed run cuts the log back, so that one writes it anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from hantune.config.schema import TrainSection
from hantune.data.batch import Samples
from hantune.errors import Interrupted
from hantune.log import EventLog, JsonLines, Progress, console
from hantune.models.memory import steady_heap
from hantune.paths import RunFolder
from hantune.train import checkpoint as checkpoints
from hantune.train.best import Best
from hantune.train.feed import Feed
from hantune.train.guards import Guards
from hantune.train.heartbeat import Heartbeat
from hantune.train.meter import Meter, note
from hantune.train.optim import learning_rate_at
from hantune.train.plan import Plan
from hantune.train.remedy import Remedy
from hantune.train.room import Room
from hantune.train.saver import Saver
from hantune.train.step import Stepper, StepResult
from hantune.train.stop import StopRequest
from hantune.train.trainer_log import TrainerLog
from hantune.train.watchdog import WINDOW

if TYPE_CHECKING:
    from accelerate import Accelerator

Evaluate = Callable[[int], float | None]
"""Evaluate at a step, write its event, return the held-out loss (None without held-out data)."""
Ask = Callable[[int], float | None]
"""Ask the fixed questions at a step, write events and samples, return the probe score (None where none is asked)."""

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
        trainer_log: TrainerLog,
        evaluate: Evaluate,
        meter: Meter | None = None,
        ask: Ask = lambda step: None,
        report: Report = lambda values, step: None,
        log_every: int = 1,
        is_float32: bool = True,
    ) -> None:
        """``is_float32``: whether all is computed in float32 (``Precision.is_wide``)."""
        self.model = model
        self.stepper = Stepper(model, accelerator, section)
        self.parameters = self.stepper.parameters
        self.plan = plan
        self.step = 0
        self.meter = meter or Meter()
        self._remedy = Remedy(run)
        self.guards = Guards(self.parameters, section, self._remedy, is_float32=is_float32)
        self.best = Best(section)
        self._feed = Feed(samples, plan, section, pad_id=pad_id)
        self.room = Room(self.stepper, self._feed, section, self._warn, self._remedy)
        self._section = section
        self._accelerator = accelerator
        self._run = run
        self._events = events
        self._trainer_log = trainer_log
        self._logs: dict[str, JsonLines] = {"events": events, "samples": answers, "trainer_log": trainer_log}
        self._evaluate = evaluate
        self._ask = ask
        self._report = report
        self._log_every = log_every
        self._heartbeat = Heartbeat(run.log)
        self._saved_step = -1
        self._saver = Saver(run, keep=section.keep_checkpoints, tell=lambda step: events.write("checkpoint", step=step))
        self._due_since: int | None = None
        self.good_step = 0
        """The newest step whose checkpoint is good as far as the guards can tell; 0 = none yet."""

    def restore(self, checkpoint: checkpoints.Checkpoint) -> None:
        """Continue from a checkpoint: weights, moments, generators, logs, best."""
        self.restore_weights(checkpoint)
        self._restore_scaler(checkpoint.state)
        for name, log in self._logs.items():
            log.truncate(checkpoint.state["offsets"][name])
        self._events.write("checkpoint", step=checkpoint.step)
        self.best.restore(checkpoint.state["best"])
        self.guards.restore(checkpoint.state["guards"])
        self.room.most, self.good_step = checkpoint.state["most_positions"], checkpoint.state["good_step"]
        self.meter.restore(checkpoint.state["meter"])
        self.step = self._saved_step = checkpoint.step
        checkpoints.restore_rng(checkpoint.tensors("rng"))

    def restore_weights(self, checkpoint: checkpoints.Checkpoint) -> None:
        """Only what was learned: weights, and with the moments their averages."""
        checkpoints.restore_weights(self.parameters, checkpoint.tensors("weights"))
        checkpoints.restore_optimizer(
            self.stepper.optimizer.optimizer,
            self.parameters,
            checkpoint.tensors("optimizer"),
            checkpoint.state["optimizer"],
        )

    def train(self) -> None:
        """Train to the end of the plan, or until the held-out loss has not fallen for long enough.

        Raises: Interrupted after a signal, with a checkpoint saved; the TrainErrors of ``Room`` and ``Guards``.
        """
        self.model.train()
        total = self.plan.total_steps
        with (
            steady_heap(),
            StopRequest(self._remedy) as stop,
            self._saver,
            self._heartbeat,
            console.progress("训练", total, unit="步", done=self.step) as bar,
        ):
            self._begin()
            while not self.is_done and stop.signal is None:
                self._train_step(bar)
                self._evaluate_and_save()
        if stop.signal is not None and not self.is_done:
            console.say("收到停止信号: 保存检查点")
            self.save(wait=True)
            raise Interrupted(stop.signal, f"停在第 {self.step} 步, 检查点已保存", hint=self._remedy.go_on())

    @property
    def is_done(self) -> bool:
        """Whether there is nothing left to train."""
        return self.step >= self.plan.total_steps or self.best.is_over

    def _begin(self) -> None:
        """What comes before the first step of a process."""
        if self.step < self.plan.total_steps:
            with self._heartbeat.on("trial", "试跑最大的一批, 看内存够不够"):
                self.room.try_largest(self.step)
        if self.step == 0:
            torch.manual_seed(self._section.seed)
            self.guards.start()
            self._evaluate_now()

    def _train_step(self, bar: Progress) -> None:
        """One step, looked at and told."""
        rate = learning_rate_at(*self._feed.course.place(self.step), self._section)
        self.stepper.set_learning_rate(rate)
        self.meter.start()
        with self._heartbeat.on("step", f"第 {self.step + 1} 步", self.room.describe(self.step)):
            result = self.room.train(self.step)
        seconds = self.meter.stop(result, self._feed.squares_of_step(self.step))
        self.step += 1
        self._saver.look()
        figures = self.meter.now()
        self._record(result, rate, seconds, figures)
        self._guard(result)
        bar.advance(note=f"损失 {result.loss:.3f}  {note(figures)}", left=self._seconds_left())

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

    def _record(self, result: StepResult, rate: float, seconds: float, figures: dict[str, Any]) -> None:
        if self.step % self._log_every != 0 and self.step != self.plan.total_steps:
            return
        learned = {"loss": result.loss, "learning_rate": rate, "grad_norm": result.grad_norm}
        self._events.write(
            "step",
            step=self.step,
            **learned,
            tokens=result.tokens,
            supervised=result.supervised,
            seconds=round(seconds, 4),
            seconds_left=round(self._seconds_left()),
            **figures,
        )
        self._write_trainer_log(loss=result.loss, lr=rate)
        self._report({**learned, **figures}, self.step)

    def _write_trainer_log(self, **values: float) -> None:
        self._trainer_log.write_progress(
            self.step,
            self.plan.total_steps,
            epoch=self._feed.course.epochs_before(self.step),
            elapsed=self.meter.elapsed,
            left=self._seconds_left(),
            tokens=self.meter.tokens,
            **values,
        )

    def _seconds_left(self) -> float:
        share = self._feed.course.samples_before(self.step) / self.plan.run_samples
        return self.meter.seconds_left(share, self.plan.still_to_come(self.step))

    def _evaluate_and_save(self) -> None:
        improved = self._evaluate_now()
        if self.is_done or improved or self._is_save_due():
            self.save(wait=self.is_done)

    def _is_save_due(self) -> bool:
        """Whether to save by the calendar. A state that may be bad is left for later, unless it stays like that."""
        if self._due_since is None and self.step % self.plan.save_every == 0:
            self._due_since = self.step
        if self._due_since is None:
            return False
        return not self.guards.is_suspect or self.step - self._due_since >= WINDOW

    def _evaluate_now(self) -> bool:
        """Evaluate and ask where the plan says so, and at the end; whether this is the best trained state so far."""
        is_measured = self.is_done or self.step % self.plan.eval_every == 0
        is_asked = self.is_done or self.step in self.plan.probes.steps
        if not is_measured and not is_asked:
            return False
        improved = False
        heartbeat = self._heartbeat.on("evaluate", f"第 {self.step} 步的评测")
        with heartbeat, self.stepper.ema.taken():
            if is_measured:
                improved = self.best.see_loss(self.step, self._measure())
            if is_asked or self.is_done:  # the loss may just have ended the run
                with self.meter.apart("probe"):
                    score = self._ask(self.step)
                improved |= self.best.see_score(self.step, score)
        self.model.train()
        return improved

    def _measure(self) -> float | None:
        with self.meter.apart("eval"):
            loss = self._evaluate(self.step)
        if loss is not None:
            self._write_trainer_log(eval_loss=loss)
        if loss is not None and self.step == 0:
            self.guards.expect(loss)
        return loss

    def save(self, *, wait: bool = False) -> None:
        """A checkpoint of this step boundary, unless it is already there; ``wait``: until it is on disk."""
        self._due_since = None
        if self._saved_step == self.step:
            return
        if not self.guards.is_suspect:
            self.good_step = self.step
        with self.meter.apart("save"):
            self._saver.finish()  # the snapshot knows where the log ends, so it comes after the last one's event
            self._saver.save(self._snapshot(), wait=wait)
        self._saved_step = self.step

    def _snapshot(self) -> checkpoints.Snapshot:
        names = {id(parameter): name for name, parameter in self.parameters.items()}
        tensors, values = checkpoints.optimizer_state(self.stepper.optimizer.optimizer, names)
        return checkpoints.Snapshot(
            step=self.step,
            parts={"weights": self.parameters, "optimizer": tensors, "rng": checkpoints.rng_tensors()},
            state={**self._state(), "optimizer": values},
            is_best=self.best.step == self.step,
        )

    def _state(self) -> dict[str, Any]:
        scaler = self._accelerator.scaler
        return {
            "best": self.best.state(),
            "guards": self.guards.state(),
            "most_positions": self.room.most,
            "good_step": self.good_step,
            **{name: self.plan.as_dict()[name] for name in ("deals", "run_samples", "by_length")},
            "meter": self.meter.state(),
            "offsets": {name: log.offset() for name, log in self._logs.items()},
            "scaler": None if scaler is None else scaler.state_dict(),
        }

    def _restore_scaler(self, state: dict[str, Any]) -> None:
        if self._accelerator.scaler is not None and state["scaler"] is not None:
            self._accelerator.scaler.load_state_dict(state["scaler"])
