"""A run foretold without starting it: what ``hantune plan`` and ``hantune train --dry-run`` show."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hantune.config.schema import RunConfig
from hantune.errors import RefusedError
from hantune.paths import RunFolder
from hantune.train.optim import optimizer_name
from hantune.train.parallel import make_accelerator
from hantune.train.planning.duration import Duration, calibrate, expected_duration
from hantune.train.planning.gate import no_fit, require_disk
from hantune.train.planning.ladder import Ladder, climb
from hantune.train.planning.outlook import Outlook, look_ahead
from hantune.train.planning.target import Target, here
from hantune.train.precision import choose_device
from hantune.train.ready import get_ready, require_held_out, require_libraries
from hantune.train.setup import Material, open_material


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """``ladder``: changes that save memory, if the run does not fit; ``refusal``: why it would not start."""

    config: RunConfig
    material: Material
    outlook: Outlook
    duration: Duration | None
    ladder: Ladder | None
    refusal: RefusedError | None

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        outlook = self.outlook
        return {
            **outlook.plan.as_dict(),
            "precision": outlook.precision.as_dict(),
            "load": self.config.model.load,
            "recompute": outlook.recompute.as_dict(),
            "prepack": outlook.prepack.as_dict(),
            "optimizer": optimizer_name(self.config.train, outlook.target.device),
            "device": str(outlook.target.device),
            "devices": outlook.target.total,
            "parameters": {"total": outlook.parameters, "learned": outlook.learned},
            "tokens": int(self.material.train.lengths.sum()),
            "dropped": self.material.train.dropped,
            "template": self.material.template.name,
            "check": self.material.check.as_dict(),
            **outlook.as_dict(),
            "duration": None if self.duration is None else self.duration.as_dict(),
            "ladder": None if self.ladder is None else self.ladder.as_dict(),
        }


def forecast(config: RunConfig, scratch: Path, *, target: Target | None = None, measure: bool = False) -> Forecast:
    """The forecast of a run on ``target`` (None: this machine). No weight is read, unless to ``measure`` how fast
    its micro-batches are. A raw data file is prepared in ``scratch``.

    Raises: what ``train`` raises of its configuration, data and model; not what it refuses for want of room.
    """
    from hantune.config.io import require_complete

    require_complete(config)
    require_libraries(config)
    material = open_material(config, RunFolder(scratch))
    require_held_out(config, len(material.val))
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    outlook = look_ahead(config, material, target or here(choose_device(config.train.device)))
    ladder = None if outlook.fits else climb(config, material, outlook)
    refusal = None if ladder is None else no_fit(outlook, ladder)
    try:
        require_disk(config, outlook)
    except RefusedError as error:
        refusal = refusal or error
    duration = measured_duration(config, material, outlook) if measure and refusal is None else None
    return Forecast(
        config=config,
        material=material,
        outlook=outlook,
        duration=duration or expected_duration(outlook),
        ladder=ladder,
        refusal=refusal,
    )


def measured_duration(config: RunConfig, material: Material, outlook: Outlook) -> Duration | None:
    """How long the run takes, by its own micro-batches on the loaded model."""
    ready = get_ready(config, material, outlook=outlook)
    accelerator = make_accelerator(ready.device, ready.precision)
    model = accelerator.prepare_model(ready.model) if ready.device.type != "cpu" else ready.model
    return calibrate(config, material, ready.plan, model, accelerator, most_share=math.inf)
