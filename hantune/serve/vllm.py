"""``--engine vllm``: the same flags, answered by vLLM, for many clients on a card."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from hantune.env import with_variables
from hantune.errors import ConfigError, MachineError, RefusedError
from hantune.models.adapter import CONFIG
from hantune.models.locate import Located, locate

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What ``--max-lora-rank`` takes."""


def find_vllm() -> str:
    """The program: beside this Python, or on the search path.

    Raises: MachineError ``serve.no-vllm``.
    """
    beside = Path(sys.executable).parent / "vllm"
    found = str(beside) if beside.is_file() else shutil.which("vllm")
    if found is None:
        raise MachineError(
            "serve.no-vllm",
            "没有装 vLLM",
            hint="装上它 (要 NVIDIA 显卡): pip install vllm; 或者用自带的: --engine local",
        )
    return found


def command(
    program: str,
    model: str,
    *,
    name: str,
    base: str | None,
    adapters: Mapping[str, Path],
    host: str,
    port: int,
    load: str | None,
    dtype: str,
    max_batch: int,
    cors: Sequence[str],
) -> list[str]:
    """The words of the command that serves ``model`` and ``adapters`` (name -> folder) with vLLM.

    Raises: ConfigError ``serve.vllm-load``; RefusedError ``serve.vllm-templates``; what ``locate`` raises.
    """
    located = locate(model, base=base)
    load = load or located.load
    if load == "8bit":
        raise ConfigError(
            "serve.vllm-load", "vLLM 没有 8 比特的装入方式", place="--load", hint="写 --load 4bit 或 --load full"
        )
    loras = {name: located} if located.adapter else {}
    loras |= {each: locate(located.base, adapter=folder) for each, folder in adapters.items()}
    _require_one_template(located, loras)
    words = [program, "serve", located.base, "--host", host, "--port", str(port), "--max-num-seqs", str(max_batch)]
    words += ["--served-model-name", f"{name}-base" if located.adapter else name]
    words += ["--tokenizer", located.tokenizer_path, "--dtype", dtype, "--allowed-origins", json.dumps(list(cors))]
    if load == "4bit":
        words += ["--quantization", "bitsandbytes"]
    template = Path(located.tokenizer_path) / "chat_template.jinja"
    if template.is_file():
        words += ["--chat-template", str(template)]
    if loras:
        rank = max(_rank(each) for each in loras.values())
        most = next((size for size in RANKS if size >= rank), rank)
        words += ["--enable-lora", "--max-loras", str(len(loras)), "--max-lora-rank", str(most)]
        words += ["--lora-modules", *(f"{each}={found.adapter}" for each, found in loras.items())]
    return words


def _require_one_template(located: Located, loras: Mapping[str, Located]) -> None:
    """vLLM has one chat template for all that it serves.

    Raises: RefusedError ``serve.vllm-templates``.
    """
    for name, each in loras.items():
        if each.template.text != located.template.text:
            raise RefusedError(
                "serve.vllm-templates",
                f"适配器 {name} 的模板 ({each.template.name}) 和 MODEL 的 ({located.template.name}) 不同, "
                "vLLM 只能用一个模板",
                place=str(each.adapter),
                hint="用自带的: --engine local; 或者先合并再单独开一个: hantune model merge",
            )


def _rank(located: Located) -> int:
    config = json.loads((located.adapter or Path()).joinpath(CONFIG).read_bytes())
    return max([int(config.get("r", 8)), *map(int, config.get("rank_pattern", {}).values())])


def run(words: Sequence[str], keys: Sequence[str]) -> int:
    """Run the command to its end; returns its exit code. Keys go through the environment: others can see the words."""
    variables = {"VLLM_API_KEY": keys[0]} if keys else {}
    process = subprocess.Popen(words, env=with_variables(variables))
    try:
        return process.wait()
    finally:
        process.terminate()
        process.wait()
