"""A model as other programs take it: a folder for vLLM, a GGUF file for llama.cpp, GGUF and Modelfile for Ollama."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from hantune.data.tokens import Encoder
from hantune.data.types import Message
from hantune.errors import ConfigError, ModelError
from hantune.models.export.gguf_file import KINDS, write_gguf
from hantune.models.export.modelfile import go_template, modelfile
from hantune.models.folder import read_config
from hantune.models.headers import INDEX, weight_files
from hantune.models.locate import Located, locate
from hantune.models.room import require_room
from hantune.models.tokenizer import copy_tokenizer, load_tokenizer, read_chat_template
from hantune.paths import new_folder, quoted, write_file, write_json

TARGETS = ("ollama", "gguf", "vllm")
BITS = {"f16": 16.0, "q8_0": 8.5, "q4_0": 4.5}


def export(source: str, target: str, out: Path, *, kind: str = "q8_0") -> dict[str, Any]:
    """Write the model ``source`` (MODEL or RUN) for the program ``target`` into ``out``; returns what is there.

    ``kind``: how GGUF stores the weights.

    Raises: ConfigError ``export.unknown-target``, ``export.unknown-type``; ModelError ``export.merge-first``,
        ``export.not-equal``; RefusedError ``export.*``; RunError ``run.exists``; MachineError ``machine.no-room``,
        ``machine.no-gguf``; the errors of ``locate``.
    """
    _require("export.unknown-target", "--to", target, TARGETS)
    _require("export.unknown-type", "--type", kind, KINDS)
    located = locate(source)
    if located.adapter is not None:
        raise ModelError(
            "export.merge-first",
            "这是适配器, 别的程序要的是完整的模型: 先合并, 再导出",
            place=str(located.adapter),
            hint=f"hantune model merge {quoted(source)} --out 合并后的文件夹; "
            f"hantune model export 合并后的文件夹 --to {target} --out {quoted(out)}",
        )
    folder = Path(located.base)
    size = sum(path.stat().st_size for path in weight_files(folder))
    parameters = size / {"float32": 4}.get(str(read_config(folder).get("dtype")), 2)
    require_room(size if target == "vllm" else int(parameters * BITS[kind] / 8), out)
    with new_folder(out) as temporary:
        if target == "vllm":
            report = _for_vllm(located, temporary)
        else:
            report = _for_llama_cpp(located, temporary, out.name, kind, with_modelfile=target == "ollama")
    return report | {"folder": str(out), "target": target, "template": located.template.name}


def _require(code: str, option: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(
            code,
            f"没有这个选择: {option} {value}; 可以写: {'、'.join(choices)}",
            place=option,
            hint=f"hantune model export 模型 --to {choices[0] if option == '--to' else 'gguf'} --out 新文件夹",
        )


def _stops(located: Located, encoder: Encoder) -> tuple[str, ...]:
    """Texts at which an answer ends."""
    return tuple(located.template.render([Message(role="user", text="你好")], encoder.marks).stops)


def _for_vllm(located: Located, folder: Path) -> dict[str, Any]:
    """Weights and config as they are, the template in both places, and every end mark that is a token."""
    source = Path(located.base)
    tokenizer = load_tokenizer(located.tokenizer_path)
    encoder = Encoder(tokenizer)
    weights = weight_files(source)
    for path in [*weights, *(source / name for name in (INDEX, "config.json") if (source / name).is_file())]:
        shutil.copyfile(path, folder / path.name)
    for path in sorted(source.glob("LICENSE*")) + sorted(source.glob("NOTICE*")):
        shutil.copyfile(path, folder / path.name)
    copy_tokenizer(tokenizer, folder, chat_template=located.template.jinja_for(encoder.marks))
    stops = _stops(located, encoder)
    ends = sorted({*encoder.stop_ids(stops), *([] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id])})
    path = source / "generation_config.json"
    settings = json.loads(path.read_bytes()) if path.is_file() else {}
    write_json(folder / "generation_config.json", settings | {"eos_token_id": ends, "pad_token_id": encoder.pad_id})
    words = [stop for stop in stops if not encoder.stop_ids((stop,))]
    _require_both_templates(folder)
    files = sorted(path.name for path in folder.iterdir())
    return {"files": files, "stop_ids": ends, "stop_words": words, "bytes": sum(p.stat().st_size for p in weights)}


def _require_both_templates(folder: Path) -> None:
    """Converters read the template from one place or the other: both say the same, or neither anything."""
    config = json.loads((folder / "tokenizer_config.json").read_bytes()).get("chat_template")
    if config != read_chat_template(folder):
        raise ModelError(
            "export.not-equal",
            "chat_template.jinja 和 tokenizer_config.json 里的对话模板不一样. 没有留下任何文件",
            place=str(folder),
            hint="把这条信息发给维护者",
        )


def _for_llama_cpp(located: Located, folder: Path, name: str, kind: str, *, with_modelfile: bool) -> dict[str, Any]:
    """The GGUF file, and Ollama's Modelfile beside it."""
    source = Path(located.base)
    encoder = Encoder(load_tokenizer(located.tokenizer_path))
    go = go_template(located.template, encoder.marks) if with_modelfile else None
    file = f"{name}-{kind}.gguf"
    report = write_gguf(source, folder / file, kind, chat_template=located.template.jinja_for(encoder.marks))
    if go is not None:
        context = read_config(source).get("max_position_embeddings")
        text = modelfile(file, go, _stops(located, encoder), context=context)
        write_file(folder / "Modelfile", text)
    return report | {"files": sorted(path.name for path in folder.iterdir())}
