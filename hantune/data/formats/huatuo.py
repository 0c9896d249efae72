"""HuatuoGPT: ``{"data": ["问：...", "答：..."]}``, speakers in turn from the user on; UltraChat's ``data`` is alike.

Source: FreedomIntelligence/HuatuoGPT-sft-data-v1, stingning/ultrachat.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from hantune.data.formats.common import Turn, conversation, unknown
from hantune.data.types import Conversation, Reject, Row

NAME = "huatuo"
SHAPE = 'data 字段, 里面是 ["问:...", "答:..."]'
NEEDS = (("data",),)
MARK = re.compile("\\s*[问答][:\uff1a]\\s*")


def matches(value: Any) -> str | None:
    """Why a record looks like HuatuoGPT's, or None."""
    said = value.get("data") if isinstance(value, dict) else None
    if not isinstance(said, list) or len(said) < 2 or not all(isinstance(text, str) for text in said):
        return None
    return "有 data 字段, 里面是一串句子, 一人一句"


def read(row: Row) -> Iterator[Conversation | Reject]:
    """The sentences without the marks that say whose they are."""
    if not matches(row.value):
        yield unknown(row, NAME, SHAPE)
        return
    said = [MARK.sub("", text, count=1) if MARK.match(text) else text for text in row.value["data"]]
    yield conversation(row, [Turn("assistant" if index % 2 else "user", text) for index, text in enumerate(said)])
