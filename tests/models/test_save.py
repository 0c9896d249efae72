"""A fully trained model is a folder like any other, with its template inside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from hantune.data.templates import get_template
from hantune.models.load import load_model, load_tokenizer
from hantune.models.locate import locate
from hantune.models.save import save_model


def test_a_saved_model_is_found_with_its_template(tiny_bloom_folder: Path, tmp_path: Path, byte_tokenizer: Any) -> None:
    model = load_model(tiny_bloom_folder, dtype=torch.float32)
    common: dict[str, Any] = {"tokenizer": load_tokenizer(tiny_bloom_folder), "template": get_template("chatml")}
    for _ in range(2):  # the second replaces the first
        save_model(model, tmp_path / "run" / "model", base=str(tiny_bloom_folder), **common, info={"metrics": {"x": 1}})
    for path in (tmp_path / "run", tmp_path / "run" / "model"):
        located = locate(path)
        assert (located.template.name, located.adapter) == ("chatml", None)
        assert located.run == (tmp_path / "run" if path.name == "run" else None)
    again = load_model(tmp_path / "run" / "model", dtype=torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
