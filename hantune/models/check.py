"""``hantune model check``: everything that can be known of a model folder without reading its weights."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from hantune.errors import RefusedError
from hantune.models.fingerprint import fingerprint
from hantune.models.folder import read_config, require_model
from hantune.models.hub import local_folder
from hantune.models.load import load_checked, require_rows
from hantune.models.record import read_record
from hantune.models.shards import DTYPES, TensorSpec, tensor_places
from hantune.models.tokenizer import choose_pad, load_tokenizer, num_ids, read_chat_template

ROUND_TRIP = "你好, 世界! Hello 123\n第二行 (2 + 2 = 4)"
"""Text that a usable tokenizer gives back unchanged."""


def check_model(folder: str | Path) -> dict[str, Any]:
    """The figures of a sound model folder, and ``findings``: what is odd but does not stop it (Chinese sentences).

    Raises: ModelError ``model.*`` for what makes the folder unusable.
    """
    path = local_folder(folder)
    files = require_model(path)
    skeleton = load_checked(path, dtype=torch.float32, device_map="meta")
    specs = {name: spec for name, (_, spec) in tensor_places(path).items()}
    tokenizer = load_tokenizer(path)
    require_rows(skeleton, tokenizer, place=str(path))
    pad, pad_reason = choose_pad(_untouched(path))
    record = read_record(path)
    return {
        "folder": str(path),
        "model_type": read_config(path)["model_type"],
        "parameters": sum(math.prod(spec.shape) for spec in specs.values()),
        "layers": getattr(skeleton.config, "num_hidden_layers", None),
        "dtype": stored_dtype(specs),
        "files": len(files),
        "bytes": sum(file.stat().st_size for file in files),
        "vocab_rows": skeleton.get_input_embeddings().weight.shape[0],
        "tokenizer_ids": num_ids(tokenizer),
        "pad": pad,
        "pad_reason": pad_reason,
        "chat_template": read_chat_template(path) is not None,
        "template": record["template"]["name"] if record else None,
        "fingerprint": fingerprint(path),
        "findings": _findings(path, specs, tokenizer),
    }


def _untouched(folder: Path) -> Any:
    """The tokenizer as transformers loads it, before a pad was chosen; so the reason is the true one."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def stored_dtype(specs: dict[str, TensorSpec]) -> str:
    """The dtype that most bytes are in: ``float32``, ``bfloat16``, ``float16`` ..."""
    weight: Counter[str] = Counter()
    for spec in specs.values():
        weight[spec.dtype] += spec.num_bytes
    return str(DTYPES[weight.most_common(1)[0][0]]).removeprefix("torch.")


def _findings(folder: Path, specs: dict[str, TensorSpec], tokenizer: Any) -> list[str]:
    """What a careful friend would mention."""
    found = []
    if len({spec.dtype for spec in specs.values()}) > 1:
        found.append("权重混用了几种精度: " + "、".join(sorted({spec.dtype for spec in specs.values()})))
    if tokenizer.decode(tokenizer.encode(ROUND_TRIP, add_special_tokens=False)) != ROUND_TRIP:
        found.append("分词器编码再解码, 文字变了 (空格, 换行或汉字): 回答里也会这样")
    if tokenizer.eos_token_id is None:
        found.append("分词器没有结束符 (eos): 模型学不会停下")
    config_eos = read_config(folder).get("eos_token_id")
    ends = config_eos if isinstance(config_eos, list) else [config_eos]
    if config_eos is not None and tokenizer.eos_token_id not in ends:
        found.append(f"config.json 的结束符编号是 {config_eos}, 分词器的是 {tokenizer.eos_token_id}")
    found.extend(_template_finding(folder))
    return found


def _template_finding(folder: Path) -> list[str]:
    """Whether the chat template can be rendered at all."""
    text = read_chat_template(folder)
    if text is None:
        return []
    from hantune.data.templates.sandbox import compile_template

    try:
        compile_template(text)
    except RefusedError as error:
        return [f"对话模板用不了: {error.message}"]
    return []
