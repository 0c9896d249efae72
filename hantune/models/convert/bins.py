"""A Hugging Face folder whose weights are pickles: ``pytorch_model.bin``, or several with their index."""

from __future__ import annotations

import json
from pathlib import Path

from torch import Tensor

from hantune.errors import ModelError
from hantune.models.convert.meta import shard_missing
from hantune.models.convert.pickles import PickleFile
from hantune.models.folder import PAPERS, copy_beside, read_config, require_no_pointer
from hantune.models.headers import LONG_NAMES, TensorSpec, is_plain_name
from hantune.models.shapes import BUFFERS, expected_shapes, require_tensors
from hantune.models.tokenizer import FILES, has_tokenizer

SINGLE, INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
HEAD = "lm_head.weight"


class BinModel:
    """``specs``: the tensors in the order of the files, without tables that models compute; ``tensor_of`` reads one.

    Raises: ModelError ``model.no-config``, ``model.bad-config``, ``model.no-tokenizer``, ``model.bad-index``,
        ``model.shard-missing``, ``model.keys`` and those of ``PickleFile``.
    """

    kind = "pickle (.bin)"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        config = read_config(folder)
        if not has_tokenizer(folder):
            raise ModelError(
                "model.no-tokenizer",
                "文件夹里没有分词器 (tokenizer.json 或 tokenizer.model)",
                place=str(folder),
                hint="从原来的模型拷来 tokenizer 开头的文件, 再运行同一条命令",
            )
        self.sources = bin_paths(folder)
        self._files: list[PickleFile] = []
        try:
            self._files.extend(PickleFile(path) for path in self.sources)
            self._places = {name: file for file in self._files for name in file.specs if not BUFFERS.search(name)}
            self.specs: dict[str, TensorSpec] = {name: file.specs[name] for name, file in self._places.items()}
            expected = expected_shapes(config, folder / "config.json")
            if expected:
                if HEAD not in expected:
                    self.specs.pop(HEAD, None)  # the same tensor as the embedding
                require_tensors(expected, self.specs, folder)
        except BaseException:
            self.close()
            raise

    @property
    def dtype(self) -> str:
        return LONG_NAMES[max(self.specs.values(), key=lambda spec: spec.num_bytes).dtype]

    def close(self) -> None:
        for file in self._files:
            file.close()

    def tensor_of(self, name: str) -> Tensor:
        return self._places[name].read(name)

    def dress(self, out: Path) -> None:
        """Put config, generation settings, tokenizer and licence beside the weights, as they are."""
        copy_beside(self.folder, out, ("config.json", "generation_config.json", *FILES, *PAPERS))


def bin_paths(folder: Path) -> list[Path]:
    """The files of the model, sorted by name.

    Raises: ModelError ``model.bad-index``, ``model.shard-missing``.
    """
    if not (folder / INDEX).is_file():
        if (folder / SINGLE).is_file():
            return [folder / SINGLE]
        raise shard_missing(folder, f"没有 {SINGLE}, 也没有 {INDEX}")
    require_no_pointer(folder / INDEX)
    try:
        names = {str(name) for name in json.loads((folder / INDEX).read_bytes())["weight_map"].values()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        names = {""}
    if not all(map(is_plain_name, names)):
        raise ModelError(
            "model.bad-index",
            f"{INDEX} 读不懂, 或者指到了文件夹外面",
            place=str(folder / INDEX),
            hint=f"从原来的模型重新下载 {INDEX}",
        )
    if missing := sorted(name for name in names if not (folder / name).is_file()):
        raise shard_missing(folder, f"{INDEX} 里的 {len(names)} 个文件缺了 {'、'.join(missing[:3])}")
    return [folder / name for name in sorted(names)]
