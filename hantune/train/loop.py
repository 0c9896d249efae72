"""The step loop: samples of the step -> micro-batches -> loss -> gradients -> update; evaluate, save, stop.

The number of finished steps is the whole cursor: which samples a step trains is a pure function of it (``data/pack``),
the learning rate too (``train/optim``). What else a checkpoint needs is weights, moments and the generators' states.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from hantune.config.schema import TrainSection
from hantune.data.batch import Batch, Samples, collate_samples
from hantune.data.pack import epoch_steps, micro_batches
from hantune.errors import Interrupted, TrainError
from hantune.log import EventLog, console
from hantune.models.loss import supervised_nats
from hantune.paths import RunFolder, quoted
from hantune.train import checkpoint as checkpoints
from hantune.train.meter import Meter
from hantune.train.optim import learning_rate_at, make_optimizer, trained_parameters
from hantune.train.plan import Plan
from hantune.train.stop import StopRequest

if TYPE_CHECKING:
    from accelerate import Accelerator

MAX_BAD_STEPS = 3
"""Steps in a row whose loss or gradient is not a number before the run stops (trap D1)."""

Evaluate = Callable[[int], float | None]
"""Evaluate at a step, write its events and samples, return the held-out loss (None without held-out data)."""


Report = Callable[[dict[str, float], int], None]
"""Hand a step's figures to trackers."""


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """``loss``: mean nats over the supervised tokens of the whole step; ``tokens``: real tokens."""

    loss: float
    grad_norm: float
    tokens: int
    supervised: int

    @property
    def is_finite(self) -> bool:
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


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
        self.parameters = trained_parameters(model)
        self.optimizer = accelerator.prepare(make_optimizer(self.parameters.values(), section))
        self.plan = plan
        self.step = 0
        self.meter = Meter()
        self._samples = samples
        self._lengths = samples.lengths
        self._section = section
        self._pad_id = pad_id
        self._accelerator = accelerator
        self._run = run
        self._events = events
        self._answers = answers
        self._evaluate = evaluate
        self._report = report
        self._log_every = log_every
        self._bad_steps = 0
        self._best: tuple[float, int] | None = None
        self._saved_step = -1
        self._epoch: tuple[int, list[np.ndarray]] | None = None

    def restore(self, checkpoint: checkpoints.Checkpoint) -> None:
        """Continue from a checkpoint: weights, moments, generators, logs, best."""
        checkpoints.restore_weights(self.parameters, checkpoint.tensors("weights"))
        checkpoints.restore_optimizer(
            self.optimizer.optimizer, self.parameters, checkpoint.tensors("optimizer")
        )
        self._restore_scaler(checkpoint.state)
        self._events.truncate(checkpoint.state["events_offset"])
        self._answers.truncate(checkpoint.state["samples_offset"])
        best = checkpoint.state["best"]
        self._best = None if best is None else (best["loss"], best["step"])
        self._bad_steps = checkpoint.state["bad_steps"]
        self.meter.tokens, self.meter.seconds = checkpoint.state["tokens"], checkpoint.state["seconds"]
        self.step = self._saved_step = checkpoint.step
        checkpoints.restore_rng(checkpoint.tensors("rng"))

    def train(self) -> None:
        """Train to the end of the plan.

        Raises: Interrupted after a signal, with a checkpoint saved; TrainError ``train.not-finite``.
        """
        self.model.train()
        total = self.plan.total_steps
        with StopRequest() as stop, console.progress("训练", total, unit="步", done=self.step) as bar:
            if self.step == 0:
                torch.manual_seed(self._section.seed)
                self._evaluate_now()
            while self.step < total and stop.signal is None:
                self.meter.start()
                rate = self._set_learning_rate()
                result = self.train_step()
                seconds = self.meter.stop(result.tokens)
                self.step += 1
                self._record(result, rate, seconds)
                bar.advance(note=f"损失 {result.loss:.3f}  {self.meter.tokens_per_second:.0f} 词元/秒")
                self._evaluate_and_save()
        if stop.signal is not None and self.step < total:
            console.say("收到停止信号: 保存检查点")
            self.save()
            raise Interrupted(
                stop.signal, f"停在第 {self.step} 步, 检查点已保存", hint=f"hantune resume {quoted(self._run.root)}"
            )

    def samples_of_step(self, step: int) -> np.ndarray:
        """The sample numbers that ``step`` trains."""
        epoch, within = divmod(step, self.plan.steps_per_epoch)
        if self._epoch is None or self._epoch[0] != epoch:
            steps = epoch_steps(
                self._lengths, self.plan.samples_per_step, seed=self._section.seed, epoch=epoch
            )
            self._epoch = (epoch, steps)
        return self._epoch[1][within]

    def micro_batches_of_step(self, step: int) -> list[Batch]:
        """The step's samples, cut and collated."""
        cuts = micro_batches(
            self.samples_of_step(step),
            self._lengths,
            batch_size=self._section.batch_size,
            batch_tokens=self._section.batch_tokens,
            layout=self.plan.layout,
        )
        return [collate_samples(self._samples, cut, layout=self.plan.layout, pad_id=self._pad_id) for cut in cuts]

    def train_step(self) -> StepResult:
        """One update. The loss is a mean over the supervised tokens of all micro-batches together (trap D2)."""
        batches = self.micro_batches_of_step(self.step)
        supervised = sum(batch.num_supervised for batch in batches)
        nats = torch.zeros((), device=self._accelerator.device)
        for batch in batches:
            with self._accelerator.autocast():
                batch_nats, _ = supervised_nats(self.model, batch.to(self._accelerator.device))
            self._accelerator.backward(batch_nats / supervised)
            nats += batch_nats.detach()
        limit = self._section.max_grad_norm
        norm = self._accelerator.clip_grad_norm_(self.parameters.values(), math.inf if limit is None else limit)
        result = StepResult(
            loss=float(nats) / supervised,
            grad_norm=float(norm),
            tokens=sum(batch.num_tokens for batch in batches),
            supervised=supervised,
        )
        self._update(result)
        return result

    def _update(self, result: StepResult) -> None:
        """Apply the gradients unless they are not finite (fp16's scaler judges that by itself)."""
        if result.is_finite or self._accelerator.scaler is not None:
            self.optimizer.step()
        self.optimizer.zero_grad()
        self._bad_steps = 0 if result.is_finite else self._bad_steps + 1
        if self._bad_steps >= MAX_BAD_STEPS:
            last_good = max(self._saved_step, 0)
            raise TrainError(
                "train.not-finite",
                f"连续 {MAX_BAD_STEPS} 步的损失或梯度不是有限的数 (NaN 或 Inf), 已停下; 好检查点到第 {last_good} 步",
                place=f"第 {self.step + 1} 步",
                hint="换一种精度 train.precision=float32, 或把 train.learning_rate 减半",
            )

    def _set_learning_rate(self) -> float:
        rate = learning_rate_at(self.step, self.plan.total_steps, self._section)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

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
        if is_last or improved or self.step % self.plan.save_every == 0:
            self.save()

    def _evaluate_now(self) -> bool:
        """Evaluate; whether this is the best trained state so far."""
        loss = self._evaluate(self.step)
        self.model.train()
        if loss is None or self.step == 0 or (self._best is not None and loss >= self._best[0]):
            return False
        self._best = (loss, self.step)
        return True

    def save(self) -> None:
        """A checkpoint of this step boundary, unless it is already there."""
        if self._saved_step == self.step:
            return
        self._events.write("checkpoint", step=self.step)
        names = {id(parameter): name for name, parameter in self.parameters.items()}
        parts: dict[str, Mapping[str, Tensor]] = {
            "weights": dict(self.parameters),
            "optimizer": checkpoints.optimizer_tensors(self.optimizer.optimizer, names),
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
            "bad_steps": self._bad_steps,
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
