"""How many examples a law is tried on."""

from __future__ import annotations

from typing import Any

from hypothesis import settings


def examples(quick: int, thorough: int, **others: Any) -> settings:
    """``quick`` examples in the usual run, ``thorough`` along with the slow tests (``run_tests.sh --all``)."""
    is_quick = settings.get_current_profile_name() == "quick"
    return settings(max_examples=quick if is_quick else thorough, **others)
