"""The tensors that a config promises, told without torch: names and shapes for Llama and BLOOM.

Importing the models of transformers takes three seconds; with this a folder is checked in half of one. Other families
are compared by ``load.load_checked`` on the meta device.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hantune.errors import ModelError
from hantune.models.headers import TensorSpec

LARGEST, MOST_LAYERS = 1 << 24, 10_000
"""No size and no number of layers is larger: nothing is built before the numbers are known to be possible."""
SHOWN = 3
"""How many tensor names an error names."""
BUFFERS = re.compile(r"(^|\.)(rotary_emb\.inv_freq|attn\.(masked_)?bias)$")
"""Tables that old files carry and models compute."""

Shapes = dict[str, tuple[int, ...]]


def expected_shapes(config: Mapping[str, Any], place: Path) -> Shapes | None:
    """Parameter name -> shape for a Llama or BLOOM config, None for other families. ``place``: where it was read.

    Raises: ModelError ``model.bad-config`` for sizes that cannot be.
    """
    family = {"llama": _llama, "bloom": _bloom}.get(str(config.get("model_type")))
    return family(_Sizes(config, place)) if family else None


class _Sizes:
    """The numbers of a config."""

    def __init__(self, config: Mapping[str, Any], place: Path) -> None:
        self._config, self._place = config, place

    def __call__(self, *names: str, default: int | None = None, most: int = LARGEST) -> int:
        """The first of ``names`` that the config has."""
        name = next((name for name in names if self._config.get(name) is not None), names[0])
        value = self._config.get(name)
        value = default if value is None else value
        if type(value) is not int or not 0 < value <= most:
            raise ModelError(
                "model.bad-config",
                f"config.json 的 {name} 是 {str(value)[:40]}, 应为 1 到 {most} 的整数",
                place=str(self._place),
                hint="从原来的模型重新拷一份 config.json",
            )
        return value

    def has(self, name: str, default: bool = False) -> bool:
        return bool(self._config.get(name, default))


def _llama(size: _Sizes) -> Shapes:
    width, heads = size("hidden_size"), size("num_attention_heads")
    head = size("head_dim", default=max(1, width // heads))
    q, kv = heads * head, size("num_key_value_heads", default=heads) * head
    inner, vocab = size("intermediate_size"), size("vocab_size")
    matrices = {
        "self_attn.q_proj": (q, width), "self_attn.k_proj": (kv, width), "self_attn.v_proj": (kv, width),
        "self_attn.o_proj": (width, q), "mlp.gate_proj": (inner, width), "mlp.up_proj": (inner, width),
        "mlp.down_proj": (width, inner),
    }  # fmt: skip
    shapes: Shapes = {"model.embed_tokens.weight": (vocab, width)}
    for layer in range(size("num_hidden_layers", most=MOST_LAYERS)):
        start = f"model.layers.{layer}."
        for name, shape in matrices.items():
            shapes[f"{start}{name}.weight"] = shape
            if size.has("attention_bias" if name.startswith("self_attn") else "mlp_bias"):
                shapes[f"{start}{name}.bias"] = shape[:1]
        shapes |= {f"{start}{name}.weight": (width,) for name in ("input_layernorm", "post_attention_layernorm")}
    shapes["model.norm.weight"] = (width,)
    if not size.has("tie_word_embeddings"):
        shapes["lm_head.weight"] = (vocab, width)
    return shapes


def _bloom(size: _Sizes) -> Shapes:
    width = size("hidden_size", "n_embed")
    matrices = {
        "self_attention.query_key_value": (3 * width, width), "self_attention.dense": (width, width),
        "mlp.dense_h_to_4h": (4 * width, width), "mlp.dense_4h_to_h": (width, 4 * width),
    }  # fmt: skip
    vocab = size("vocab_size")
    shapes: Shapes = {"transformer.word_embeddings.weight": (vocab, width)}
    norms = ["transformer.word_embeddings_layernorm", "transformer.ln_f"]
    for layer in range(size("num_hidden_layers", "n_layer", most=MOST_LAYERS)):
        start = f"transformer.h.{layer}."
        norms += [start + "input_layernorm", start + "post_attention_layernorm"]
        for name, shape in matrices.items():
            shapes |= {f"{start}{name}.weight": shape, f"{start}{name}.bias": shape[:1]}
    shapes |= {f"{norm}.{part}": (width,) for norm in norms for part in ("weight", "bias")}
    if not size.has("tie_word_embeddings", True):
        shapes["lm_head.weight"] = (vocab, width)
    return shapes


def require_tensors(expected: Shapes, specs: Mapping[str, TensorSpec], folder: Path) -> None:
    """Nothing, if a folder's tensors are the expected ones; the body's prefix may be left away, as BLOOM's files do.

    Raises: ModelError ``model.keys``.
    """
    prefix = next(iter(expected)).partition(".")[0] + "."
    found = {name if name in expected or prefix + name not in expected else prefix + name: name for name in specs}
    head = "lm_head.weight"  # some store the head of a tied model all the same
    extra = {n for n in found.keys() - expected.keys() if n != head and not BUFFERS.search(n)}
    wrong = {
        f"{name} {specs[found[name]].shape}, 应为 {shape}"
        for name, shape in expected.items()
        if name in found and specs[found[name]].shape != shape
    }
    require_none(folder, missing=expected.keys() - found.keys(), extra=extra, wrong=wrong)


def require_none(folder: Path, *, missing: Any = (), extra: Any = (), wrong: Any = (), broken: Any = ()) -> None:
    """Nothing, if nothing is missing, left over, of another shape or unreadable.

    Raises: ModelError ``model.keys``, which names some of each.
    """
    problems = (("缺少", missing), ("多出", extra), ("形状不符", wrong), ("读不出", broken))
    if lines := [_problem(kind, names) for kind, names in problems if names]:
        raise ModelError(
            "model.keys",
            "权重和 config.json 对不上: " + "; ".join(lines),
            place=str(folder),
            hint="config.json 和权重要来自同一个模型: 两样一起重新下载或拷贝",
        )


def _problem(kind: str, names: Any) -> str:
    shown = sorted(map(str, names))
    more = f" 等 {len(shown)} 个" if len(shown) > SHOWN else ""
    return f"{kind} {'、'.join(shown[:SHOWN])}{more}"
