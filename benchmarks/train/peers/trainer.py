"""A meter in transformers' Trainer, which both peers build upon."""

from __future__ import annotations

from typing import Any

from meter import IGNORED, Meter
from transformers import Trainer, TrainerCallback


class Clock(TrainerCallback):  # type: ignore[misc]
    """The ends of steps."""

    def __init__(self, meter: Meter) -> None:
        self.meter = meter

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.meter.start()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.meter.step()


def watch(meter: Meter, tokenizer: Any) -> None:
    """Count what every ``Trainer`` trains from now on. No text of the workload holds the padding token (workload.py).

    A Trainer that knows the number of the step's tokens gives as a micro-batch's loss its share of the step's loss.
    """
    train = Trainer.training_step

    def training_step(self: Any, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Any:
        ids, labels = inputs["input_ids"], inputs["labels"]
        if "first_batch" not in meter.notes:
            meter.notes["first_batch"] = view(inputs, tokenizer)
        meter.add(
            tokens=int((ids != tokenizer.pad_token_id).sum()),
            supervised=int((labels != IGNORED).sum()),
            computed=int(ids.numel()),
        )
        loss = train(self, model, inputs, num_items_in_batch)
        meter.add(loss=float(loss))
        return loss

    Trainer.training_step = training_step


def view(inputs: dict[str, Any], tokenizer: Any, shown: int = 120) -> dict[str, Any]:
    """The beginning of a batch's first row to read: learned tokens in 【】, positions, how many tokens each sees."""
    ids, labels = inputs["input_ids"][0, :shown].tolist(), inputs["labels"][0, :shown].tolist()
    tokens = zip(tokenizer.convert_ids_to_tokens(ids), labels, strict=True)
    text = " ".join(token if label == IGNORED else f"【{token}】" for token, label in tokens)
    found = {"shape": list(inputs["input_ids"].shape), "text": text.replace("】 【", " ")}
    if "position_ids" in inputs:
        found["positions"] = inputs["position_ids"][0, :shown].tolist()
    mask = inputs.get("attention_mask")
    if mask is not None and mask.ndim == 4:  # 0 where a token may look
        found["seen"] = (mask[0, 0, :shown] == 0).sum(-1).tolist()
    return found
