"""When to ask a server again: which answers pass, how long to wait."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime

AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Answers that another try may change."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 16.0


class Again(Exception):
    """What came is good, but not all; ask once more after ``wait`` seconds (None: as the number of failures tells)."""

    def __init__(self, why: str, wait: float | None = None) -> None:
        super().__init__(why)
        self.wait = wait


class Wrong(Exception):
    """What came is not the file; it must come again from its first byte."""


def backoff(failures: int) -> float:
    """Seconds to wait after so many failures in a row: 0.5, 1, 2 ... 16."""
    return min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** (failures - 1))


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the server asks for: ``Retry-After`` (seconds or a date), or ``RateLimit: "api";r=0;t=55``."""
    asked = headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d{1,9}", asked):
        return float(asked)
    if asked:
        try:
            at = parsedate_to_datetime(asked)
        except ValueError:
            return None
        at = at if at.tzinfo else at.replace(tzinfo=timezone.utc)
        return max(0.0, (at - datetime.now(timezone.utc)).total_seconds())
    limit = re.search(r"r\s*=\s*0\s*;\s*t\s*=\s*(\d{1,9})", headers.get("ratelimit", ""))
    return float(limit[1]) if limit else None
