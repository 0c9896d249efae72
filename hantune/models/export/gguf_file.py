"""GGUF files of Llamas for llama.cpp and Ollama, through the ``gguf`` package, one tensor in memory at a time.

llama.cpp rotates neighbouring dimensions of queries and keys, Hugging Face's code the two halves of a head: the rows
of ``attn_q`` and ``attn_k`` are put back into Meta's order. Norms stay in float32. What was written is read back: every
tensor against the model's own, every token, and what the header says.
"""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hantune.errors import MachineError, ModelError, RefusedError
from hantune.log import console
from hantune.models.export.gguf_tokens import GgufTokens, gguf_tokens
from hantune.models.load import model_class
from hantune.models.tokenizer import load_tokenizer
from hantune.models.weights import Tensors

KINDS = ("f16", "q8_0", "q4_0")
"""16 bits a weight; 8.5; 4.5."""
LARGEST_ERROR = {"F16": 2**-11, "Q8_0": 1 / 254 + 2**-11, "Q4_0": 1 / 8 + 2**-11}
"""How far a weight may move, as a share of itself (F16) or of the largest in its block of 32: half a step of 127, a
whole one of 8 (what is opposite in sign to the largest has but 7), and the block's scale is itself in 16 bits."""
TINY = 2.0**-17
"""What numbers may move that are too small for 16 bits to scale."""
BLOCK = 32


def write_gguf(folder: Path, path: Path, kind: str, *, chat_template: str | None) -> dict[str, Any]:
    """Write the Llama in ``folder`` as one GGUF file and read it back; returns counts and the largest errors.

    Raises: RefusedError ``export.not-llama``, ``export.unknown-tokenizer``; MachineError ``machine.no-gguf``;
        ModelError ``export.not-equal``.
    """
    gguf = _library()
    config, _ = model_class(folder)
    if config.model_type != "llama":
        raise _not_llama(f"种类是 {config.model_type}", folder)
    tokenizer = load_tokenizer(folder)
    with Tensors(folder) as tensors:
        names = _names(gguf, tensors, config, folder)
        rows = tensors.specs["model.embed_tokens.weight"].shape[0]
        tokens = gguf_tokens(folder, tokenizer, rows)
        writer = gguf.GGUFWriter(path, "llama")
        _describe(gguf, writer, config, kind, rows)
        _add_tokens(writer, tokens, tokenizer, chat_template)
        extra = _rope_factors(config, folder)
        _write(gguf, writer, tensors, names, config, kind, extra)
        report = _read_back(gguf, path, tensors, names, config, tokens, chat_template)
    return report | {"kind": kind, "bytes": path.stat().st_size, "tokens": rows}


def _library() -> Any:
    try:
        return importlib.import_module("gguf")
    except ImportError as error:
        raise MachineError(
            "machine.no-gguf",
            "没有装 gguf: 写 GGUF 文件 (llama.cpp, Ollama) 要用它",
            hint='装上它: pip install "gguf>=0.17"',
        ) from error


def _not_llama(what: str, folder: Path) -> RefusedError:
    return RefusedError(
        "export.not-llama",
        f"只会把 Llama 写成 GGUF; 这个模型{what}",
        place=str(folder / "config.json"),
        hint="用 --to vllm; 其他家族的 GGUF 用 llama.cpp 自己的 convert_hf_to_gguf.py",
    )


def _names(gguf: Any, tensors: Tensors, config: Any, folder: Path) -> dict[str, str]:
    """GGUF's name of every tensor of the model -> its own."""
    table = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    found = {}
    for name in tensors.specs:
        stem = table.get_name(name.removesuffix(".weight"))
        if stem is None or not name.endswith(".weight"):
            raise _not_llama(f"有 llama.cpp 的 Llama 没有的张量: {name}", folder)
        found[f"{stem}.weight"] = name
    return found


def _describe(gguf: Any, writer: Any, config: Any, kind: str, rows: int) -> None:
    """The shape of the model."""
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(float(_rope(config).get("rope_theta", 10_000.0)))
    writer.add_vocab_size(rows)
    writer.add_file_type(int(getattr(gguf.LlamaFileType, f"MOSTLY_{kind.upper()}")))
    if kind != "f16":
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    if _rope(config).get("rope_type") == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(_rope(config)["factor"]))


def _rope(config: Any) -> dict[str, Any]:
    """The rotary settings."""
    return dict(getattr(config, "rope_parameters", None) or {})


def _rope_factors(config: Any, folder: Path) -> np.ndarray[Any, Any] | None:
    """What each rotary frequency is divided by (Llama 3.1's stretching), [head / 2]; None where there is nothing.

    Long waves by ``factor``, short ones by 1, between them a smooth change.
    """
    rope = _rope(config)
    kind = rope.get("rope_type", "default")
    if kind in ("default", "linear"):
        return None
    if kind != "llama3":
        raise _not_llama(f"的旋转位置用了 {kind}", folder)
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    lengths = 2 * math.pi * float(rope["rope_theta"]) ** (np.arange(0, head, 2) / head)
    old, low, high = rope["original_max_position_embeddings"], rope["low_freq_factor"], rope["high_freq_factor"]
    share = np.clip((old / lengths - low) / (high - low), 0.0, 1.0)
    factors: np.ndarray[Any, Any] = 1.0 / ((1.0 - share) / rope["factor"] + share)
    return factors.astype(np.float32)


def _add_tokens(writer: Any, tokens: GgufTokens, tokenizer: Any, chat_template: str | None) -> None:
    """The tokenizer and the chat template."""
    writer.add_tokenizer_model(tokens.model)
    writer.add_tokenizer_pre(tokens.split)
    writer.add_token_list(tokens.pieces)
    writer.add_token_types(tokens.kinds)
    if tokens.model == "llama":
        writer.add_token_scores(tokens.scores)
        writer.add_add_space_prefix(tokens.adds_blank)
    else:
        writer.add_token_merges(tokens.merges)
    marks = {"bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id, "unk": tokenizer.unk_token_id}
    for name, number in (marks | {"pad": tokenizer.pad_token_id}).items():
        if number is not None:
            getattr(writer, f"add_{name}_token_id")(number)
    first = tokenizer("a")["input_ids"][:1]
    writer.add_add_bos_token(tokenizer.bos_token_id is not None and first == [tokenizer.bos_token_id])
    writer.add_add_eos_token(False)
    if chat_template:
        writer.add_chat_template(chat_template)


def _kind_of(gguf: Any, name: str, shape: tuple[int, ...], kind: str) -> Any:
    """How one tensor is stored: norms in float32; rows that are no whole blocks, in 16 bits; the head never in 4."""
    kinds = gguf.GGMLQuantizationType
    if len(shape) == 1:
        return kinds.F32
    if kind == "f16" or shape[-1] % BLOCK:
        return kinds.F16
    return kinds.Q8_0 if kind == "q8_0" or name == "output.weight" else kinds.Q4_0


def _write(
    gguf: Any, writer: Any, tensors: Tensors, names: dict[str, str], config: Any, kind: str, factors: Any
) -> None:
    """The file, tensor by tensor."""
    for name, own in names.items():
        shape = tensors.specs[own].shape
        how = _kind_of(gguf, name, shape, kind)
        size, count = gguf.GGML_QUANT_SIZES[how][::-1]
        num_bytes = math.prod(shape) // count * size
        writer.add_tensor_info(name, shape, np.dtype(np.float32), num_bytes, raw_dtype=how)
    if factors is not None:
        writer.add_tensor_info("rope_freqs.weight", factors.shape, factors.dtype, factors.nbytes)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    with console.progress("写 GGUF", len(names), unit="个张量") as bar:
        for name, own in names.items():
            rows = _ordered(name, tensors.read(own).float(), config, to_meta=True).numpy()
            writer.write_tensor_data(gguf.quants.quantize(rows, _kind_of(gguf, name, rows.shape, kind)))
            bar.advance()
    if factors is not None:
        writer.write_tensor_data(factors)
    writer.close()


def _ordered(name: str, weight: Tensor, config: Any, *, to_meta: bool) -> Tensor:
    """Rows of a query or key matrix from halves of a head to neighbours (``to_meta``) or back; others as they are."""
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}.get(name.split(".")[-2])
    if heads is None:
        return weight
    half = weight.shape[0] // heads // 2
    split = (heads, 2, half) if to_meta else (heads, half, 2)
    return weight.reshape(*split, -1).transpose(1, 2).reshape(weight.shape).contiguous()


def _read_back(
    gguf: Any,
    path: Path,
    tensors: Tensors,
    names: dict[str, str],
    config: Any,
    tokens: GgufTokens,
    chat_template: str | None,
) -> dict[str, Any]:
    """The largest error of each way of storing, in units of what is allowed.

    Raises: ModelError ``export.not-equal``.
    """
    reader = gguf.GGUFReader(path)
    found = {tensor.name: tensor for tensor in reader.tensors}
    if found.keys() - {"rope_freqs.weight"} != names.keys():
        raise _not_equal(path, "张量的名字不对")
    pieces = reader.get_field("tokenizer.ggml.tokens").contents()
    template = reader.get_field("tokenizer.chat_template")
    if pieces != tokens.pieces or (template.contents() if template else None) != chat_template:
        raise _not_equal(path, "分词器或对话模板不对")
    worst: dict[str, float] = {}
    for name, own in names.items():
        kind = found[name].tensor_type.name
        read = torch.from_numpy(np.array(gguf.quants.dequantize(found[name].data, found[name].tensor_type)))
        exact = tensors.read(own).float()
        if read.shape != exact.shape:
            raise _not_equal(path, f"{name} 的形状不对")
        error = _error(kind, _ordered(name, read, config, to_meta=False), exact)
        if not error <= 1:
            raise _not_equal(path, f"{name} 的权重差得太多 (是允许的 {error:.2g} 倍)")
        worst[kind] = max(worst.get(kind, 0.0), error)
    return {"tensors": len(names), "errors": {kind: round(error, 3) for kind, error in worst.items()}}


def _error(kind: str, read: Tensor, exact: Tensor) -> float:
    """The largest difference in units of what storing as ``kind`` may do; 0 or infinite for float32."""
    gap = (read - exact).abs()
    if kind == "F32":
        return 0.0 if torch.equal(read, exact) else math.inf
    if kind == "F16":
        size = exact.abs()
    else:
        size = exact.reshape(-1, BLOCK).abs().amax(1, keepdim=True).expand(-1, BLOCK).reshape(exact.shape)
    return float((gap / (size * LARGEST_ERROR[kind] * 1.001 + (2**-24 if kind == "F16" else TINY))).max())


def _not_equal(path: Path, what: str) -> ModelError:
    return ModelError(
        "export.not-equal",
        f"写出的 GGUF 读回来和模型不一样: {what}. 没有留下任何文件",
        place=str(path),
        hint="权重太大装不进 16 位时, 换 bfloat16 的用法: --to vllm; 否则把这条信息发给维护者",
    )
