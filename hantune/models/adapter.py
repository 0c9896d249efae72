"""LoRA adapters in PEFT's format: made, saved without anybody's paths, and loaded only when they are sound."""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MethodType
from typing import Any

import torch

from hantune.config.schema import AdapterSection
from hantune.errors import ConfigError, ModelError, TrainError
from hantune.models.folder import require_no_pointer
from hantune.models.headers import read_header
from hantune.models.quantize import import_peft
from hantune.models.record import base_entry, dress
from hantune.paths import new_folder

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
NEW_ROWS = "hantune_new_rows"
"""``[first, end]`` in a model's ``config.json``: rows of a larger vocabulary that nothing has taught yet."""
BEGINS_AS_ZEROS = (".lora_B.", ".lora_embedding_A")
"""A, DoRA's magnitudes and embeddings are not zero to begin with, and say nothing about training."""
SMALLEST_BYTES = 1024
"""A file below this holds no matrix: alpaca-lora's empty adapters had 443 bytes."""


def attach_lora(model: Any, section: AdapterSection, *, seed: int) -> Any:
    """``model`` as a PeftModel: base frozen, A random from ``seed`` alone, B zero, all that is learned float32.

    Embedding and head are trained as ``section.embeddings`` says, and saved with the rest. The global random
    generators are neither read nor moved.

    Raises: ConfigError ``adapter.no-such-layer`` naming the layers there are.
    """
    import_peft()
    from peft import LoraConfig, get_peft_model

    targets: str | list[str] = section.targets if isinstance(section.targets, str) else list(section.targets)
    if not isinstance(targets, str):
        _require_layers(model, targets)
    layers = chosen_layers(section.layers_to_transform, model.config.num_hidden_layers)
    if layers is not None and isinstance(targets, str):
        targets = linear_names(model)  # PEFT takes the numbers of layers only beside names
    is_whole = section.embeddings == "all"
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=section.rank,
        lora_alpha=section.alpha,  # type: ignore[arg-type, unused-ignore]  # PEFT says int, and divides
        lora_dropout=section.dropout,
        target_modules=targets,
        use_rslora=section.use_rslora,
        use_dora=section.use_dora,
        layers_to_transform=layers,
        trainable_token_indices=new_rows(model) if section.embeddings == "new-rows" else None,
        modules_to_save=end_names(model) if is_whole else None,
    )
    dtype = model.dtype
    # Not torch.manual_seed: that would also move the generators of the cards. PEFT draws A on the CPU.
    with torch.random.fork_rng(devices=[]), quiet_peft():
        torch.default_generator.manual_seed(seed)
        wrapped = get_peft_model(model, config)
    if is_whole:
        _join_ends(model, dtype)
    for parameter in wrapped.parameters():
        if parameter.requires_grad:  # PEFT leaves embeddings in the base's dtype, where small steps round away
            parameter.data = parameter.data.float()
    return wrapped


def chosen_layers(asked: tuple[int, ...] | str | None, count: int) -> list[int] | None:
    """The numbers of the layers that ``last 8`` or a list means in a model of ``count`` layers; None for all.

    Raises: ConfigError ``adapter.no-such-layer``.
    """
    if asked is None:
        return None
    wanted = int(asked.removeprefix("last ")) if isinstance(asked, str) else max(asked) + 1
    if wanted > count:
        raise ConfigError(
            "adapter.no-such-layer",
            f"模型只有 {count} 层, 从 0 数到 {count - 1}",
            place="adapter.layers_to_transform",
            hint=f"改成 adapter.layers_to_transform='last {max(1, count // 2)}'; 全部层都要就写 null",
        )
    return list(range(count - wanted, count)) if isinstance(asked, str) else sorted(set(asked))


def end_names(model: Any) -> list[str]:
    """What the model calls its embedding and its head, without their paths: ``embed_tokens``, ``lm_head``."""
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    names = (next(name for name, module in model.named_modules() if module is end) for end in ends)
    return [name.rsplit(".", 1)[-1] for name in names]


def new_rows(model: Any) -> dict[str, list[int]] | None:
    """The untaught rows of embedding and head by layer name, as PEFT wants them; a tied head goes with its twin."""
    span = getattr(model.config, NEW_ROWS, None)
    if not span:
        return None
    names = end_names(model)[:1] if model.config.tie_word_embeddings else end_names(model)
    return {name: list(range(*span)) for name in names}


def _join_ends(model: Any, dtype: torch.dtype) -> None:
    """Embedding and head that PEFT copied to train them whole: one matrix again where the base has one.

    They are learned in float32 and compute in ``dtype`` as the rest of the model does.
    """
    embedding, head = (
        end.modules_to_save["default"] for end in (model.get_input_embeddings(), model.get_output_embeddings())
    )
    if model.config.tie_word_embeddings:
        head.weight = embedding.weight
    embedding.register_forward_hook(lambda module, inputs, output: output.to(dtype))
    head.forward = MethodType(_linear_in_dtype_of_input, head)


def _linear_in_dtype_of_input(layer: torch.nn.Linear, x: torch.Tensor) -> torch.Tensor:
    """The layer's output, in the type of ``x`` whatever that of the weights is."""
    bias = None if layer.bias is None else layer.bias.to(x.dtype)
    return torch.nn.functional.linear(x, layer.weight.to(x.dtype), bias)


@contextlib.contextmanager
def quiet_peft() -> Iterator[None]:
    """Without PEFT's warnings: renamed calls concern its makers, and what is missing is our own error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def linear_names(model: Any) -> list[str]:
    """The last names of all linear layers but the head, in the model's order: ``q_proj``, ``k_proj`` ..."""
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    layers = [name for name, m in model.named_modules() if isinstance(m, torch.nn.Linear | Conv1D) and m is not head]
    return list(dict.fromkeys(name.rsplit(".", 1)[-1] for name in layers))


def _require_layers(model: Any, targets: list[str]) -> None:
    """Every target must name at least one module."""
    modules = [name for name, _ in model.named_modules()]
    unknown = [t for t in targets if not any(name == t or name.endswith("." + t) for name in modules)]
    if unknown:
        names = linear_names(model)
        raise ConfigError(
            "adapter.no-such-layer",
            f"模型里没有叫 {'、'.join(unknown)} 的层; 它的线性层有: {'、'.join(names)}",
            place="adapter.targets",
            hint=f"改成 adapter.targets=all-linear, 或者从这些名字里选: adapter.targets='[{', '.join(names[:2])}]'",
        )


def save_adapter(
    model: Any, folder: Path, *, base: str, tokenizer: Any, template: Any, info: Mapping[str, Any]
) -> None:
    """Write the ADAPTER folder whole or not at all; an older one of the same name is replaced.

    ``base``: path or hub id of the base model. ``info``: ``data``, ``metrics`` ... for ``hantune.json``;
    ``untrained=True`` says that zero B matrices are meant.

    Raises: TrainError ``adapter.not-saved`` when what was written is not what the model holds or never moved;
        MachineError ``machine.disk-full``.
    """
    entry = base_entry(base, folder)
    with new_folder(folder, replace=True) as temporary:
        model.save_pretrained(temporary, save_embedding_layers=False)
        (temporary / "README.md").unlink(missing_ok=True)
        _clean_config(temporary / CONFIG, entry)
        dress(temporary, tokenizer=tokenizer, template=template, base=entry, info=info)
        _require_saved(model, temporary, untrained=bool(info.get("untrained")))


def _clean_config(path: Path, base: Mapping[str, Any]) -> None:
    """Hub id or bare name instead of a path; sets that PEFT writes in random order are sorted."""
    config = json.loads(path.read_bytes())
    config["base_model_name_or_path"] = base["id"] or base["name"]
    config["revision"] = base["revision"]
    for key in ("target_modules", "modules_to_save", "exclude_modules"):
        if isinstance(config.get(key), list):
            config[key] = sorted(config[key])
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _require_saved(model: Any, folder: Path, *, untrained: bool) -> None:
    """The file holds every tensor of the adapter, and training moved it."""
    from peft import get_peft_model_state_dict

    wanted = get_peft_model_state_dict(model, save_embedding_layers=False)
    found = read_header(folder / WEIGHTS)
    shapes = {name: tuple(tensor.shape) for name, tensor in wanted.items()}
    if not shapes or shapes != {name: spec.shape for name, spec in found.items()}:
        what = f"写出的适配器有 {len(found)} 个张量, 模型里有 {len(shapes)} 个"
    elif not untrained and not _has_moved(folder / WEIGHTS):
        what = "适配器的 B 矩阵全是零: 训练没有改变任何东西"
    else:
        return
    raise TrainError(
        "adapter.not-saved",
        what,
        place=str(folder),
        hint="看看 events.jsonl 里的损失有没有下降; 学习率是不是 0; 确认后重新训练",
    )


def _has_moved(path: Path) -> bool:
    """Whether any tensor of an adapter file that begins as zeros is not all zero; without such ones, any at all."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        names = list(file.keys())
        from_zero = [name for name in names if any(part in name for part in BEGINS_AS_ZEROS)]
        return any(bool(file.get_tensor(name).any()) for name in from_zero or names)


def require_adapter(folder: Path, *, untrained: bool = False) -> None:
    """Nothing, if ``folder`` is a whole, trained adapter in safetensors.

    Raises: ModelError ``adapter.not-adapter``, ``adapter.pickle``, ``adapter.torn``, ``adapter.untrained``.
    """
    if not (folder / CONFIG).is_file():
        hint = f"也许是 {folder / 'adapter'}" if (folder / "adapter").is_dir() else "写训练结果里的 adapter 文件夹"
        raise ModelError("adapter.not-adapter", f"不是适配器文件夹: 没有 {CONFIG}", place=str(folder), hint=hint)
    path = folder / WEIGHTS
    if not path.is_file():
        if (folder / "adapter_model.bin").is_file():
            raise ModelError(
                "adapter.pickle",
                "适配器是 pickle 格式 (adapter_model.bin): 打开它等于运行里面的程序, hantune 不打开",
                place=str(folder / "adapter_model.bin"),
                hint="换 safetensors 版本的适配器, 或者用训练它的工具另存为 safetensors",
            )
        raise _torn(path, f"没有 {WEIGHTS}")
    require_no_pointer(path)
    if path.stat().st_size < SMALLEST_BYTES:
        raise _torn(path, f"只有 {path.stat().st_size} 字节, 里面没有矩阵")
    try:
        json.loads((folder / CONFIG).read_bytes())
    except ValueError as error:
        raise _torn(folder / CONFIG, f"{CONFIG} 不是完整的 JSON") from error
    try:
        read_header(path)
    except ModelError as error:
        raise _torn(path, error.message) from error
    if not untrained and not _has_moved(path):
        raise ModelError(
            "adapter.untrained",
            "适配器的 B 矩阵全是零: 它和没训练过的底座一模一样",
            place=str(path),
            hint="重新训练, 或从 checkpoints/ 里最近的好检查点接着练: hantune resume 运行文件夹",
        )


def _torn(path: Path, what: str) -> ModelError:
    return ModelError(
        "adapter.torn", f"适配器不完整: {what}", place=str(path), hint="重新拷贝整个适配器文件夹, 或重新训练"
    )


def load_adapter(model: Any, folder: Path, *, untrained: bool = False, name: str = "default") -> Any:
    """``model`` wrapped with the adapter of ``folder`` (PeftModel, eval mode, adapter weights float32).

    A PeftModel gets it as one more adapter under ``name``.

    Raises: the ModelErrors of ``require_adapter``; ModelError ``adapter.keys`` when its tensors do not fit the model.
    """
    import_peft()
    from peft import PeftModel, get_peft_model_state_dict

    require_adapter(folder, untrained=untrained)
    try:
        with quiet_peft():
            if isinstance(model, PeftModel):
                model.load_adapter(str(folder), adapter_name=name)
                model.set_adapter(name, inference_mode=True)
                wrapped = model
            else:
                wrapped = PeftModel.from_pretrained(model, folder, adapter_name=name)
    except (RuntimeError, ValueError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise _unfit(folder, lines[min(1, len(lines) - 1)][:200]) from error
    wanted = set(get_peft_model_state_dict(wrapped, adapter_name=name, save_embedding_layers=False))
    found = set(read_header(folder / WEIGHTS))
    if wanted != found:
        raise _unfit(folder, f"缺 {len(wanted - found)} 个张量, 多 {len(found - wanted)} 个")
    return wrapped


def _unfit(folder: Path, what: str) -> ModelError:
    return ModelError(
        "adapter.keys",
        f"适配器和这个模型对不上: {what}",
        place=str(folder),
        hint="用 --base 写训练它时的底座; 或检查 adapter_config.json 是不是同一个适配器的",
    )
