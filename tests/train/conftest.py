"""Prepared data that the tests of training share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runs import write_chats


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 dialogues for training and some held out. Read only."""
    from hantune.data.prepare import prepare

    folder = tmp_path_factory.mktemp("prepared")
    prepare([str(write_chats(folder / "chats.jsonl", 40))], folder / "data", max_samples=24, val_share=0.3)
    return folder / "data"
