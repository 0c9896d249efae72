"""``hantune model check``: everything that can be known of a model folder without reading its weights.

Neither torch nor transformers is imported for Llama and BLOOM folders: 13 GB are checked in half a second.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from hantune.errors import ModelError, RefusedError
from hantune.log import console
from hantune.models.convert.plain import read_plain
from hantune.models.fingerprint import fingerprint
from hantune.models.finite import faults
from hantune.models.folder import leads_out, read_config, require_no_pointer, weight_problems
from hantune.models.headers import INDEX, LONG_NAMES, TensorSpec, read_index, tensor_places, weight_files
from hantune.models.hub import local_folder
from hantune.models.record import read_record
from hantune.models.shapes import expected_shapes, require_tensors
from hantune.models.tokenizer import (
    FILES,
    choose_pad,
    has_tokenizer,
    load_tokenizer,
    num_ids,
    read_chat_template,
    require_room_for_ids,
)
from hantune.paths import quoted

ROUND_TRIP = "你好, 世界! Hello 123\n第二行 (2 + 2 = 4)"
"""Text that a usable tokenizer gives back unchanged."""


class Finding(NamedTuple):
    """What is odd but does not stop the folder from working, and the command or edit that mends it."""

    message: str
    hint: str


def check_model(folder: str | Path, *, deep: bool = False) -> dict[str, Any]:
    """The figures of a sound model folder, and ``findings``: each oddity with what mends it (Chinese).

    ``deep``: read every weight for NaN and infinity, instead of three pieces of each tensor.

    Raises: ModelError ``model.*`` for what makes the folder unusable; when there are several the others are warned of.
    """
    path = local_folder(folder)
    problems = list(weight_problems(path))
    if not any(path.glob("*.safetensors")):
        raise problems[0]  # it is no model, and the error says what it is
    config = _try(problems, read_config, path)
    if not problems:
        _try(problems, _require_shapes, path, config)
    if not problems:
        _try(problems, require_finite, path, deep)
    tokenizer = _try(problems, _tokenizer, path)
    if tokenizer is not None and config is not None:
        _try(problems, _require_ids, config, tokenizer, path)
    for problem in problems[1:]:
        console.warn(f"还有 {problem.code}: {problem.message}. 办法: {problem.hint}")
    if problems:
        raise problems[0]
    return _figures(path, config, tokenizer)


def _try(problems: list[ModelError], function: Callable[..., Any], *arguments: Any) -> Any:
    """What ``function`` gives, or None and its error among the ``problems`` (each of them once)."""
    try:
        return function(*arguments)
    except ModelError as error:
        if all((error.code, error.place) != (known.code, known.place) for known in problems):
            problems.append(error)
        return None


def _require_shapes(folder: Path, config: dict[str, Any]) -> None:
    """Nothing, if names and shapes are those that the config promises, and the index tells the truth."""
    places = tensor_places(folder)
    if (folder / INDEX).is_file():
        _require_index(folder, places)
    expected = expected_shapes(config, folder / "config.json")
    if expected is not None:
        require_tensors(expected, {name: spec for name, (_, spec) in places.items()}, folder)
        return
    import torch

    from hantune.models.load import load_checked

    load_checked(folder, dtype=torch.float32, device_map="meta")


def _require_index(folder: Path, places: dict[str, tuple[Path, TensorSpec]]) -> None:
    """Nothing, if each tensor that the index names is in the file that it names."""
    wrong = [name for name, file in read_index(folder).items() if name not in places or places[name][0].name != file]
    if wrong:
        raise ModelError(
            "model.bad-index",
            f"分片索引说有 {'、'.join(wrong[:3])}{f' 等 {len(wrong)} 个' * (len(wrong) > 3)}, 它说的文件里没有",
            place=str(folder / INDEX),
            hint=f"索引和权重要来自同一次下载: 重新下载 {INDEX}",
        )


def require_finite(folder: Path, deep: bool = False) -> None:
    """Nothing, if no weight that was read is NaN or infinite.

    Raises: ModelError ``model.not-finite``.
    """
    found = [fault for path in weight_files(folder) for fault in faults(path, deep=deep) if fault.not_finite]
    if found:
        more = f" 等 {len(found)} 个张量" if len(found) > 1 else ""
        raise ModelError(
            "model.not-finite",
            f"权重里有 NaN 或无穷大: {found[0].name}{more}, 读到的部分里有 {sum(f.not_finite for f in found):,} 个",
            place=str(folder),
            hint="重新下载; 自己训练或合并出来的, 从更早的检查点再来 (fp16 溢出的换 bf16)",
        )


def _tokenizer(folder: Path) -> Any:
    """The tokenizer before a pad was chosen, so that the reason for the pad is the true one.

    Raises: ModelError ``model.no-tokenizer``, ``model.bad-tokenizer``, ``model.lfs-pointer``, ``model.no-pad``.
    """
    for name in FILES if has_tokenizer(folder) else ():
        if (folder / name).is_file():
            require_no_pointer(folder / name)
    try:
        plain = read_plain(folder)
    except Exception:  # every part of it fails in its own way; load_tokenizer says what is wrong
        plain = None
    if plain is None:
        load_tokenizer(folder)
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    choose_pad(plain)
    return plain


def _require_ids(config: dict[str, Any], tokenizer: Any, folder: Path) -> None:
    """Nothing, if every id of the tokenizer has a row in the model's vocabulary."""
    if isinstance(config.get("vocab_size"), int):
        require_room_for_ids(config["vocab_size"], tokenizer, place=str(folder))


def _figures(folder: Path, config: dict[str, Any], tokenizer: Any) -> dict[str, Any]:
    """What there is to say of a sound folder."""
    specs = {name: spec for name, (_, spec) in tensor_places(folder).items()}
    files = weight_files(folder)
    pad, pad_reason = choose_pad(tokenizer)
    record = read_record(folder)
    return {
        "folder": str(folder),
        "model_type": config["model_type"],
        "parameters": sum(math.prod(spec.shape) for spec in specs.values()),
        "layers": next((config[key] for key in ("num_hidden_layers", "n_layer") if key in config), None),
        "dtype": stored_dtype(specs),
        "files": len(files),
        "bytes": sum(file.stat().st_size for file in files),
        "vocab_rows": config.get("vocab_size"),
        "tokenizer_ids": num_ids(tokenizer),
        "pad": pad,
        "pad_reason": pad_reason,
        "chat_template": read_chat_template(folder) is not None,
        "template": record["template"]["name"] if record else None,
        "fingerprint": fingerprint(folder),
        "findings": [f"{what}; 办法: {fix}" for what, fix in _findings(folder, config, specs, tokenizer)],
    }


def stored_dtype(specs: dict[str, TensorSpec]) -> str:
    """The dtype that most bytes are in: ``float32``, ``bfloat16``, ``float16`` ..."""
    weight: Counter[str] = Counter()
    for spec in specs.values():
        weight[spec.dtype] += spec.num_bytes
    return LONG_NAMES[weight.most_common(1)[0][0]]


def _findings(folder: Path, config: dict[str, Any], specs: dict[str, TensorSpec], tokenizer: Any) -> Iterator[Finding]:
    """What a careful friend would mention."""
    dtypes = sorted({spec.dtype for spec in specs.values()})
    if len(dtypes) > 1:
        yield Finding(f"权重混用了几种精度: {'、'.join(dtypes)}", "能用; 想统一, 从原来的模型重新下载或转换")
    yield from _zero_findings(folder)
    if tokenizer.decode(tokenizer.encode(ROUND_TRIP, add_special_tokens=False)) != ROUND_TRIP:
        yield Finding(
            "分词器编码再解码, 文字变了 (空格, 换行或汉字): 回答里也会这样",
            "从原来的模型重新拷一份 tokenizer 开头的文件",
        )
    if tokenizer.eos_token_id is None:
        yield Finding("分词器没有结束符 (eos): 模型学不会停下", '在 tokenizer_config.json 里加 "eos_token": "结束符"')
    elif config.get("eos_token_id") is not None:
        ends = config["eos_token_id"] if isinstance(config["eos_token_id"], list) else [config["eos_token_id"]]
        if tokenizer.eos_token_id not in ends:
            yield Finding(
                f"config.json 的结束符编号是 {config['eos_token_id']}, 分词器的是 {tokenizer.eos_token_id}",
                f'在 config.json 和 generation_config.json 里改成 "eos_token_id": {tokenizer.eos_token_id}',
            )
    yield from _template_findings(folder)
    yield from _file_findings(folder, config)


def _zero_findings(folder: Path) -> Iterator[Finding]:
    """Matrices of zeros: some download tools reserve the whole file and fill it later."""
    empty = [fault.name for path in weight_files(folder) for fault in faults(path) if fault.is_zero]
    if empty:
        yield Finding(
            f"{len(empty)} 个矩阵抽查到的全是 0 ({empty[0]}): 多半是没下载完, 下载工具先占了位置",
            "重新下载, 或核对官方的 sha256",
        )


def _template_findings(folder: Path) -> Iterator[Finding]:
    """Whether there is a chat template, and whether it can be rendered at all."""
    text = read_chat_template(folder)
    if text is None:
        return
    from hantune.data.templates.sandbox import compile_template

    try:
        compile_template(text)
    except RefusedError as error:
        yield Finding(f"对话模板用不了: {error.message}", "训练和聊天时另选模板: template.name=chatml (或别的名字)")


def _file_findings(folder: Path, config: dict[str, Any]) -> Iterator[Finding]:
    """Files that mislead, waste room, or are not in the folder at all."""
    links = [path.name for path in sorted(folder.iterdir()) if path.is_symlink() and leads_out(path)]
    if links:
        real = f"cp --remove-destination $(readlink -f {quoted(links[0])}) {quoted(links[0])}"
        yield Finding(
            f"{'、'.join(links[:3])} 是指到文件夹外面的链接: 拷贝或发布这个文件夹时会漏掉",
            f"换成文件: cd {quoted(folder)} && {real}",
        )
    pickles = [path for pattern in ("pytorch_model*.bin", "consolidated.*.pth") for path in folder.glob(pattern)]
    if pickles:
        size = sum(path.stat().st_size for path in pickles) / 1e9
        names = " ".join(quoted(path) for path in sorted(pickles)[:3])
        yield Finding(f"同一份权重还有 {len(pickles)} 个 pickle 文件, 占 {size:.1f} GB, 用不到", f"rm {names}")
    if config.get("auto_map"):
        yield Finding("config.json 要求运行模型自带的程序 (auto_map): hantune 不运行它", "不用做什么")
