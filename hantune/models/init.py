"""New models of known shapes with random weights: the same seed gives the same bytes.

Shapes: ``tiny`` for demos and tests, ``15m`` and ``110m`` as in llama2.c's stories models, ``1b`` as TinyLlama,
``7b`` as Llama 2 (https://arxiv.org/abs/2307.09288, table 1).
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hantune.assets import tokenizer_path
from hantune.errors import ConfigError
from hantune.log import console
from hantune.models.shards import DTYPE_NAMES, TensorSpec, write_tensors
from hantune.models.tokenizer import copy_tokenizer, load_tokenizer, num_ids, read_chat_template
from hantune.paths import new_folder


class Shape(NamedTuple):
    """The size of a model, and the spread of its random weights.

    ``kv_heads``, ``inner`` and ``positions`` are Llama's; BLOOM has alibi and 4x the width.
    """

    width: int
    layers: int
    heads: int
    kv_heads: int
    inner: int
    positions: int
    is_tied: bool
    std: float = 0.02


PRESETS: dict[str, Shape] = {
    # With 0.02 so narrow a model barely learns: after 12 epochs of the embedded dialogues its loss stood at 3.1 instead
    # of 0.04 (docs/decisions.md).
    "tiny": Shape(256, 2, 4, 4, 704, 1024, True, std=0.1),
    "15m": Shape(288, 6, 6, 6, 768, 1024, True),
    "110m": Shape(768, 12, 12, 12, 2048, 2048, True),
    "1b": Shape(2048, 22, 32, 4, 5632, 2048, False),
    "7b": Shape(4096, 32, 32, 32, 11008, 4096, False),
}
FAMILIES = ("llama", "bloom")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def init_model(
    out: Path,
    *,
    preset: str = "tiny",
    family: str = "llama",
    tokenizer: Path | None = None,
    seed: int = 0,
    dtype: str = "float32",
) -> dict[str, Any]:
    """Write a random model with its tokenizer into ``out``; returns its figures (parameters, vocabulary, bytes).

    ``tokenizer``: a tokenizer folder; None takes the embedded one. Memory stays at one tensor.

    Raises: ConfigError ``model.no-such-preset``; RunError ``run.exists``; the ModelErrors of ``load_tokenizer``.
    """
    _require_choice("preset", preset, tuple(PRESETS))
    _require_choice("family", family, FAMILIES)
    _require_choice("dtype", dtype, tuple(DTYPES))
    source = Path(tokenizer or tokenizer_path())
    loaded = load_tokenizer(source)
    config = _config(family, PRESETS[preset], loaded)
    config.dtype = DTYPES[dtype]
    skeleton = _skeleton(config)
    specs = {
        name: TensorSpec(DTYPE_NAMES[DTYPES[dtype]], tuple(tensor.shape))
        for name, tensor in skeleton.named_parameters()
    }
    num_bytes = sum(spec.num_bytes for spec in specs.values())
    with new_folder(out) as folder, console.progress("写权重", num_bytes >> 20, unit="MB") as bar:
        _write_configs(config, type(skeleton).__name__, folder)
        copy_tokenizer(loaded, folder, chat_template=read_chat_template(source))
        files = write_tensors(
            folder,
            specs,
            lambda name: _random(name, specs[name].shape, config, seed).to(DTYPES[dtype]),
            advance=lambda done: bar.advance(done >> 20),
        )
    return {
        "folder": str(out),
        "family": family,
        "preset": preset,
        "parameters": sum(math.prod(spec.shape) for spec in specs.values()),
        "vocab_size": config.vocab_size,
        "dtype": dtype,
        "seed": seed,
        "bytes": num_bytes,
        "files": len(files),
    }


def _require_choice(what: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(
            "model.no-such-preset",
            f"没有这个选择: --{what} {value}; 可以写: {'、'.join(choices)}",
            place=f"--{what}",
            hint=f"hantune model init 文件夹 --{what} {choices[0]}",
        )


def _config(family: str, shape: Shape, tokenizer: Any) -> Any:
    """The transformers config; the vocabulary has exactly the rows that the tokenizer needs."""
    from transformers import BloomConfig, LlamaConfig

    common = {
        "vocab_size": num_ids(tokenizer),
        "hidden_size": shape.width,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "initializer_range": shape.std,
    }
    if family == "bloom":
        return BloomConfig(**common, n_layer=shape.layers, n_head=shape.heads)
    return LlamaConfig(
        **common,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=shape.positions,
        rms_norm_eps=1e-5,
        tie_word_embeddings=shape.is_tied,
    )


def _skeleton(config: Any) -> Any:
    """The model without memory behind its tensors; tied weights are one parameter."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
        model.tie_weights()
    return model


def _write_configs(config: Any, class_name: str, folder: Path) -> None:
    """``config.json`` and ``generation_config.json``."""
    from transformers import GenerationConfig

    config.architectures = [class_name]
    config.save_pretrained(folder)
    GenerationConfig(
        bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
    ).save_pretrained(folder)


def _random(name: str, shape: tuple[int, ...], config: Any, seed: int) -> Tensor:
    """One tensor (float32) as both families start: norms 1, biases 0, matrices normal with the config's deviation.

    Each tensor has its own generator, seeded by name, so that no tensor hangs on the order of the others.
    """
    if name.endswith("bias"):
        return torch.zeros(shape)
    if len(shape) == 1:
        return torch.ones(shape)
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
    return torch.empty(shape).normal_(0.0, config.initializer_range, generator=generator)
