"""Llama as Meta releases it: ``consolidated.NN.pth`` and ``params.json``, seen as tensors of a Hugging Face model.

Source: Meta's ``llama/model.py`` (Llama 1 to 3.2, text). Two things differ. A model cut for N GPUs is N files, each
with a slice of every matrix. And its rotary embedding turns neighbouring numbers (2i, 2i+1) of a head together, that
of Hugging Face the numbers i and i + head/2: the rows of ``wq`` and ``wk`` are put into the other order.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hantune.errors import ModelError
from hantune.models.convert.pickles import PickleFile
from hantune.models.folder import require_no_pointer
from hantune.models.headers import LONG_NAMES, TensorSpec
from hantune.models.shapes import LARGEST, MOST_LAYERS, expected_shapes

PARAMS = "params.json"
SHARD = re.compile(r"consolidated\.(\d\d)\.pth")
ENDS = {
    "tok_embeddings.weight": "model.embed_tokens.weight", "norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}  # fmt: skip
LAYER = {
    "attention.wq": "self_attn.q_proj", "attention.wk": "self_attn.k_proj", "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj", "feed_forward.w1": "mlp.gate_proj", "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj", "attention_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
}  # fmt: skip
ACROSS = (".attention.wo.weight", ".feed_forward.w2.weight")
"""Matrices that are cut by columns; the others are cut by rows (the embedding: Llama 3 by rows, before by columns)."""
PARAMS_BYTES = 1_000_000


@dataclass(frozen=True)
class Params:
    """``params.json``, checked. ``vocab_size`` is None where it says -1: the rows of the embedding tell it."""

    dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    norm_eps: float
    vocab_size: int | None
    multiple_of: int
    ffn_dim_multiplier: float | None
    rope_theta: float
    is_scaled: bool
    rope_scaling_factor: float | None
    max_seq_len: int | None

    @property
    def inner(self) -> int:
        """The width inside the feed-forward layers, as Meta's code rounds it."""
        width = int(8 * self.dim / 3)
        if self.ffn_dim_multiplier is not None:
            width = int(self.ffn_dim_multiplier * width)
        return self.multiple_of * math.ceil(width / self.multiple_of)


def read_params(path: Path) -> Params:
    """What ``params.json`` says.

    Raises: ModelError ``model.bad-params``, ``model.lfs-pointer``.
    """
    if not path.is_file():
        raise _bad_params(path, "没有这个文件")
    require_no_pointer(path)
    if path.stat().st_size > PARAMS_BYTES:
        raise _bad_params(path, "它大得不像 params.json")
    try:
        found = json.loads(path.read_bytes())
        if not isinstance(found, dict):
            raise ValueError
    except (ValueError, RecursionError) as error:
        raise _bad_params(path, "不是完整的 JSON") from error

    def number(name: str, kind: type, default: Any = None) -> Any:
        value = found.get(name, default)
        if value is None and name in ("dim", "n_layers", "n_heads", "norm_eps"):
            raise _bad_params(path, f"没有 {name}")
        if value is None:
            return None
        is_number = type(value) is kind or (kind is float and type(value) is int)
        most = {"n_layers": MOST_LAYERS}.get(name, LARGEST if kind is int else 1e12)
        if not is_number or not 0 < value <= most:
            raise _bad_params(path, f"{name} 是 {str(value)[:40]!r}, 应为正数")
        return value

    params = Params(
        dim=number("dim", int), n_layers=number("n_layers", int), n_heads=number("n_heads", int),
        n_kv_heads=number("n_kv_heads", int) or number("n_heads", int), norm_eps=number("norm_eps", float),
        vocab_size=None if found.get("vocab_size", -1) == -1 else number("vocab_size", int),
        multiple_of=number("multiple_of", int, 256), ffn_dim_multiplier=number("ffn_dim_multiplier", float),
        rope_theta=float(number("rope_theta", float, 10000.0)), is_scaled=found.get("use_scaled_rope") is True,
        rope_scaling_factor=number("rope_scaling_factor", float), max_seq_len=number("max_seq_len", int),
    )  # fmt: skip
    if params.dim % params.n_heads or params.n_heads % params.n_kv_heads or params.dim // params.n_heads % 2:
        raise _bad_params(path, f"{params.dim} 维分不成 {params.n_heads} 个头, {params.n_kv_heads} 个键值头")
    return params


def _bad_params(path: Path, what: str) -> ModelError:
    return ModelError(
        "model.bad-params", f"{PARAMS} 用不了: {what}", place=str(path), hint=f"从发布这个模型的地方重新下载 {PARAMS}"
    )


class MetaModel:
    """A folder of Meta's layout. ``specs``: Hugging Face's tensors in the order of the files; ``tensor_of`` reads one.

    ``vocab_size``: what the user says the vocabulary has, instead of ``params.json``.

    Raises: ModelError ``model.bad-params``, ``model.shard-missing``, ``model.params-mismatch``,
        ``model.wrong-vocab-size`` and those of ``PickleFile``.
    """

    kind = "Meta 原版"

    def __init__(self, folder: Path, *, vocab_size: int | None = None) -> None:
        self.folder = folder
        self.params = read_params(folder / PARAMS)
        self.sources = shard_paths(folder)
        self._files: list[PickleFile] = []
        try:
            self._files.extend(PickleFile(path) for path in self.sources)
            self._origins = self._names()
            self.specs = {name: self._spec(origin) for name, origin in self._origins.items()}
            self._check_count()
            self._check_vocabulary(vocab_size)
            self._check_shapes()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        for file in self._files:
            file.close()

    def watch(self, feed: Callable[[Path, int, memoryview], None], hashed: Container[Path]) -> None:
        """Let ``feed`` have (path, start, bytes) of all that is read from now on; it answers for the files ``hashed``,
        whose own checksums are not compared then."""
        for file in self._files:
            file.on_read = feed
            file.is_trusted = file.path in hashed

    @property
    def vocab_size(self) -> int:
        return self.specs["model.embed_tokens.weight"].shape[0]

    @property
    def dtype(self) -> str:
        return LONG_NAMES[self.specs["model.embed_tokens.weight"].dtype]

    @property
    def is_late(self) -> bool:
        """Llama 3.1 or newer."""
        return self.params.is_scaled

    @property
    def context(self) -> int:
        """Tokens the model was made for. Files do not say it; the generation does, and each has its own traits."""
        if self.params.max_seq_len:
            return self.params.max_seq_len
        if self.is_late:
            return 131072
        if self.params.rope_theta >= 500_000:
            return 8192 if self.vocab_size > 100_000 else 16384  # Llama 3, Code Llama
        return 2048 if self.dtype == "float16" else 4096  # Llama 1, Llama 2

    def config(self) -> dict[str, Any]:
        """``config.json`` without the ids of the marks, in the keys that every reader of Llama folders knows."""
        params = self.params
        scaling = None
        if params.is_scaled:
            factor = params.rope_scaling_factor or (32.0 if params.dim <= 3072 else 8.0)  # Llama 3.2 1B and 3B
            scaling = {
                "rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            }  # fmt: skip
        return {
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
            "hidden_size": params.dim, "num_hidden_layers": params.n_layers, "num_attention_heads": params.n_heads,
            "num_key_value_heads": params.n_kv_heads, "head_dim": params.dim // params.n_heads,
            "intermediate_size": self._inner, "vocab_size": self.vocab_size, "rms_norm_eps": params.norm_eps,
            "max_position_embeddings": self.context, "rope_theta": params.rope_theta, "rope_scaling": scaling,
            "tie_word_embeddings": "lm_head.weight" not in self.specs, "attention_bias": False, "mlp_bias": False,
            "attention_dropout": 0.0, "initializer_range": 0.02, "pretraining_tp": 1, "use_cache": True,
            "torch_dtype": self.dtype,
        }  # fmt: skip

    @property
    def _inner(self) -> int:
        return self.specs["model.layers.0.mlp.gate_proj.weight"].shape[0]

    def _names(self) -> dict[str, str]:
        """Hugging Face name -> Meta name, without the tables of the rotary embedding."""
        found: dict[str, str] = {}
        for origin in self._files[0].specs:
            if origin.endswith("rope.freqs"):
                continue
            number, _, part = origin.removeprefix("layers.").partition(".")
            inside = LAYER.get(part.removesuffix(".weight")) if origin.startswith("layers.") else None
            name = f"model.layers.{number}.{inside}.weight" if inside else ENDS.get(origin)
            if name is None:
                raise self._mismatch(f"{self.sources[0].name} 里有不认识的张量 {origin[:60]}")
            found[name] = origin
        for needed in ("tok_embeddings", "layers.0.attention.wq", "layers.0.feed_forward.w1"):
            if len(self._files[0].specs.get(f"{needed}.weight", TensorSpec("", ())).shape) != 2:
                raise self._mismatch(f"{self.sources[0].name} 里没有 {needed}.weight, 或者它不是矩阵")
        return found

    def _axis(self, origin: str) -> int | None:
        """Along which axis the slices of a tensor are joined; None: every file has the whole."""
        shape = self._files[0].specs[origin].shape
        if len(shape) == 1:
            return None
        if origin == "tok_embeddings.weight":
            return 0 if shape[1] == self.params.dim else 1
        return 1 if origin.endswith(ACROSS) else 0

    def _spec(self, origin: str) -> TensorSpec:
        """Dtype and shape of the whole tensor."""
        for file, path in zip(self._files, self.sources, strict=True):
            if origin not in file.specs:
                raise self._mismatch(f"{path.name} 里没有 {origin}, 第一个分片里有")
            if file.specs[origin] != self._files[0].specs[origin]:
                raise self._mismatch(f"{path.name} 的 {origin} 和第一个分片的大小或精度不同")
        dtype, shape = self._files[0].specs[origin]
        axis = self._axis(origin)
        whole = [size * len(self._files) if place == axis else size for place, size in enumerate(shape)]
        return TensorSpec(dtype, tuple(whole))

    def _check_count(self) -> None:
        """Slices that make only a part of a matrix: files are missing."""
        rows = self.specs["model.layers.0.self_attn.q_proj.weight"].shape[0] // len(self.sources)
        if rows * len(self.sources) != self.params.dim and self.params.dim % rows == 0:
            count = self.params.dim // rows
            raise shard_missing(self.folder, f"按 {PARAMS} 应有 {count} 个分片, 这里有 {len(self.sources)} 个")

    def _check_vocabulary(self, vocab_size: int | None) -> None:
        """``--vocab-size`` goes before ``params.json``; what is said must be what the embedding has."""
        said = vocab_size or self.params.vocab_size
        if said is not None and said != self.vocab_size:
            where = "--vocab-size" if vocab_size else PARAMS
            raise ModelError(
                "model.wrong-vocab-size",
                f"词表大小不对: {where} 说 {said}, 权重里的词向量有 {self.vocab_size} 行",
                place=str(self.folder),
                hint=f"按权重的来: --vocab-size {self.vocab_size}",
            )

    def _check_shapes(self) -> None:
        """Every tensor that the config promises is there, in its shape."""
        expected = expected_shapes(self.config(), self.folder / PARAMS) or {}
        for name, shape in expected.items():
            if name not in self.specs:
                raise self._mismatch(f"没有 {name} 对应的张量")
            if self.specs[name].shape != shape:
                raise self._mismatch(f"{self._origins[name]} 拼起来是 {self.specs[name].shape}, 应为 {shape}")
        if extra := sorted(self.specs.keys() - expected.keys()):
            raise self._mismatch(f"多出 {self._origins[extra[0]]}: 层数不对")
        if self._inner != self.params.inner:
            raise self._mismatch(
                f"前馈层宽 {self._inner}, 按 multiple_of 和 ffn_dim_multiplier 应为 {self.params.inner}"
            )

    def _mismatch(self, what: str) -> ModelError:
        return ModelError(
            "model.params-mismatch",
            f"权重和 {PARAMS} 对不上: {what}",
            place=str(self.folder),
            hint=f"consolidated.*.pth 和 {PARAMS} 要来自同一个模型: 两样一起重新下载",
        )

    def tensor_of(self, name: str) -> Tensor:
        """One tensor as Hugging Face has it, read from all files."""
        origin = self._origins[name]
        axis = self._axis(origin)
        files = self._files if axis is not None else self._files[:1]
        whole = files[0].read(origin) if len(files) == 1 else torch.cat([f.read(origin) for f in files], axis or 0)
        if origin.endswith(".attention.wq.weight"):
            return halves_apart(whole, self.params.n_heads)
        return halves_apart(whole, self.params.n_kv_heads) if origin.endswith(".attention.wk.weight") else whole


def halves_apart(weight: Tensor, heads: int) -> Tensor:
    """Rows (heads x head, width) of a query or key matrix: in each head 0 2 4 ... then 1 3 5 ..."""
    width = weight.shape[-1]
    return weight.view(heads, -1, 2, width).transpose(1, 2).reshape(-1, width)


def shard_paths(folder: Path) -> list[Path]:
    """``consolidated.00.pth``, ``.01`` ... without a gap.

    Raises: ModelError ``model.shard-missing``.
    """
    found = {int(match[1]): path for path in folder.iterdir() if (match := SHARD.fullmatch(path.name))}
    missing = [f"consolidated.{number:02d}.pth" for number in range(max(found, default=0)) if number not in found]
    if missing or not found:
        raise shard_missing(folder, f"缺 {'、'.join(missing[:3]) or 'consolidated.00.pth'}")
    return [found[number] for number in sorted(found)]


def shard_missing(folder: Path, what: str) -> ModelError:
    """The error for an incomplete set of Meta's files."""
    return ModelError(
        "model.shard-missing",
        f"权重文件不齐: {what}",
        place=str(folder),
        hint="把缺的文件补齐 (重新下载或拷贝), 再运行同一条命令; 已有的不用重新下载",
    )
