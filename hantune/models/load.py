"""Loading a model with a strict report: what is missing, left over or of another shape stops it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from hantune.errors import ModelError
from hantune.log import console
from hantune.models import fp8
from hantune.models.folder import read_config, require_model
from hantune.models.footprint import require_memory
from hantune.models.hub import local_folder
from hantune.models.quantize import loading_config
from hantune.models.shapes import require_none
from hantune.models.tokenizer import has_tokenizer, load_tokenizer, require_room_for_ids

__all__ = ["chat_template", "load_model", "load_tokenizer", "model_type", "require_rows"]


def load_model(
    path: str | Path, *, dtype: torch.dtype, device: str = "cpu", revision: str | None = None, load: str = "full"
) -> Any:
    """The causal language model of a folder or hub id, in eval mode, every parameter from the file and in ``dtype``.

    Code that comes with a model is never run; pickles are never opened. ``load``: ``full``, ``8bit`` or ``4bit``; the
    linear layers but the head are quantised as they are read, and ``dtype`` is that of the rest and of the arithmetic.

    Raises: the ModelErrors of ``require_model``; ConfigError ``model.unknown-load``; MachineError
        ``machine.no-bitsandbytes``, ``model.no-memory`` before a weight is read; ModelError ``model.not-found``,
        ``model.unknown-type``, ``model.keys``, ``model.vocab-too-small``; NetworkError ``hub.unreachable``.
    """
    folder = local_folder(path, revision=revision)
    require_model(folder)
    quantization = loading_config(load, dtype)
    require_memory(folder, load=load, dtype=dtype, device=device)
    place = None if device == "cpu" and quantization is None else {"": numbered(device)}
    model = load_checked(folder, dtype=dtype, device_map=place, quantization=quantization)
    if has_tokenizer(folder):
        require_rows(model, load_tokenizer(folder), place=str(folder))
    return model


def load_in_fp8(path: str | Path, *, dtype: torch.dtype, device: str, revision: str | None = None) -> Any:
    """The same for training with 8-bit floats (``models/fp8``): the device takes only what the weights are made into.

    Raises: MachineError ``machine.no-fp8``; what ``load_model`` raises.
    """
    place = torch.device(numbered(device))
    fp8.require_fp8(place)
    if place.type == "cpu":
        console.warn("CPU 没有 FP8 单元: 算得对, 但比不压慢得多, 只用来试")
    folder = local_folder(path, revision=revision)
    require_model(folder)
    require_memory(folder, load="fp8", dtype=dtype, device=device)
    model = load_model(folder, dtype=dtype)
    fp8.hold_in_fp8(model, place)
    return model.to(place)


def numbered(device: str) -> str:
    """``cuda:0`` for ``cuda``: accelerate refuses to train a quantised model on a card without a number."""
    return "cuda:0" if device == "cuda" else device


def load_checked(folder: Path, *, dtype: torch.dtype, device_map: Any = None, quantization: Any = None) -> Any:
    """``from_pretrained`` whose findings are errors; ``device_map="meta"`` compares names and shapes without weights.

    Raises: ModelError ``model.unknown-type``, ``model.keys``.
    """
    from transformers import AutoModelForCausalLM

    with quiet_transformers():
        model, found = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            device_map=device_map,
            quantization_config=quantization,
            attn_implementation=attention_of(folder),
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported below, for all tensors at once
        )
    require_none(
        folder,
        missing=found["missing_keys"],
        extra=found["unexpected_keys"],
        wrong={f"{name} {tuple(have)}, 应为 {tuple(want)}" for name, have, want in found["mismatched_keys"]},
        broken=set(found.get("error_msgs", ())),
    )
    return model


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """No load report and no bars of transformers: our own error and progress say it."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def model_class(folder: Path) -> tuple[Any, Any]:
    """(config, class) that transformers itself has for the folder's ``model_type``.

    Raises: ModelError ``model.unknown-type``, ``model.bad-config``.
    """
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    name = read_config(folder)["model_type"]
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        return config, MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    except (ValueError, KeyError) as error:
        raise ModelError(
            "model.unknown-type",
            f"不认识的模型种类: {name} (要的是因果语言模型, 而且不运行模型自带的代码)",
            place=str(folder / "config.json"),
            hint="换 transformers 支持的模型, 比如 Llama, BLOOM, Qwen; 新模型先升级: pip install -U transformers",
        ) from error


def attention_of(folder: Path) -> str:
    """``sdpa`` where the family has it, else ``eager``."""
    _, family = model_class(folder)
    return "sdpa" if getattr(family, "_supports_sdpa", False) else "eager"


def require_rows(model: Any, tokenizer: Any, *, place: str) -> None:
    """Nothing, if every id of the tokenizer has an embedding row.

    Raises: ModelError ``model.vocab-too-small``.
    """
    require_room_for_ids(model.get_input_embeddings().weight.shape[0], tokenizer, place=place)


def model_type(path: str | Path) -> str:
    """``model_type`` of a model folder's config: ``llama``, ``bloom`` ..."""
    return str(read_config(local_folder(path))["model_type"])


def chat_template(tokenizer: Any) -> str | None:
    """The Jinja chat template that a loaded tokenizer carries, or None."""
    found = tokenizer.chat_template
    if isinstance(found, dict):
        found = found.get("default")
    return found if isinstance(found, str) else None
