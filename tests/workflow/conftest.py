"""Small data for the whole job."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runs import write_chats


@pytest.fixture(scope="session")
def chats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 dialogues as a raw file. Read only."""
    return write_chats(tmp_path_factory.mktemp("chats") / "chats.jsonl", 30)
