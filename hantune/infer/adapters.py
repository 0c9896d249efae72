"""Several adapters over one base in memory: loaded once, switched between two steps, never merged."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hantune.data.templates.base import Template
from hantune.data.tokens import Encoder
from hantune.errors import ConfigError, ModelError, RefusedError
from hantune.models.adapter import load_adapter
from hantune.models.load import load_tokenizer
from hantune.models.locate import locate

FIRST = "default"
"""PEFT's name of the adapter that a model was opened with."""
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Adapters:
    """The adapters of one model by name, and which of them is at work; None is the base alone."""

    def __init__(self, model: Any, template: Template) -> None:
        self.model = model
        self.templates: dict[str | None, Template] = {None: template}
        self.templates |= dict.fromkeys(getattr(model, "peft_config", ()), template)
        self.active: str | None = getattr(model, "active_adapter", None) if self.names else None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name in self.templates if name is not None)

    def template(self, name: str | None) -> Template:
        """What an adapter was trained with.

        Raises: RefusedError ``infer.no-adapter``.
        """
        if name not in self.templates:
            there = f"有: {', '.join(self.names)}" if self.names else "这里一个也没有"
            raise RefusedError(
                "infer.no-adapter", f"没有叫 {name!r} 的适配器; {there}", hint="写上面有的名字, 或者不写, 用底座"
            )
        return self.templates[name]

    def load(self, name: str, folder: Path, *, base: str, encoder: Encoder) -> None:
        """One more adapter of the base ``base``, under ``name``. After an error in its weights the model is spoilt.

        Raises: ConfigError ``infer.adapter-name``; ModelError ``infer.other-tokenizer``; what ``locate`` and
            ``load_adapter`` raise.
        """
        if not NAME.fullmatch(name) or name in self.templates:
            why = "已经有了" if name in self.templates else "只能用英文字母, 数字, - 和 _, 最多 64 个"
            raise ConfigError("infer.adapter-name", f"适配器不能叫 {name!r}: {why}", hint="换一个名字")
        located = locate(base, adapter=folder)
        found = Encoder(load_tokenizer(located.tokenizer_path))
        if located.adapter is None or found.fingerprint != encoder.fingerprint:
            raise ModelError(
                "infer.other-tokenizer",
                "它的分词器和已经装入的不同, 不能一起用",
                place=str(folder),
                hint="给它单独开一个 hantune serve",
            )
        self.model = load_adapter(self.model, located.adapter, name=name)
        self.templates[name] = located.template
        active, self.active = self.active, name
        self.use(active)

    def use(self, name: str | None) -> None:
        """From now on the model answers under adapter ``name``; layers are switched, nothing is loaded."""
        if name == self.active:
            return
        layers = self.model.base_model
        if name is None:
            layers.disable_adapter_layers()
        else:
            layers.enable_adapter_layers()
            if self.model.active_adapter != name:
                self.model.set_adapter(name, inference_mode=True)
        self.active = name
