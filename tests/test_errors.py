"""The error tree as a designed surface: exit codes, JSON, text."""

from __future__ import annotations

import pytest

from hantune import errors
from hantune.errors import HantuneError, Interrupted

EXIT_CODES = {
    "ConfigError": 2, "RefusedError": 3, "ModelError": 3, "RunError": 3, "NetworkError": 4, "DataError": 5,
    "MachineError": 6, "TrainError": 1, "HantuneError": 1,
}  # fmt: skip
"""The contract of design section 5."""


def tree() -> list[type[HantuneError]]:
    return [item for item in vars(errors).values() if isinstance(item, type) and issubclass(item, HantuneError)]


def test_every_class_has_the_agreed_exit_code() -> None:
    found = {item.__name__: item.exit_code for item in tree() if item is not Interrupted}
    assert found == EXIT_CODES
    assert all(name in (errors.__doc__ or "") for name in found)


@pytest.mark.parametrize("kind", [item for item in tree() if item is not Interrupted])
def test_an_error_carries_code_place_and_hint(kind: type[HantuneError]) -> None:
    error = kind("area.what", "出了事", place="a.jsonl:3", hint="改第三行")
    assert error.as_dict() == {"code": "area.what", "message": "出了事", "place": "a.jsonl:3", "hint": "改第三行"}
    assert str(error) == "[area.what] 出了事 (a.jsonl:3)"
    assert error.args == ("出了事",)


def test_without_a_place_none_is_shown() -> None:
    assert str(HantuneError("area.what", "出了事")) == "[area.what] 出了事"


@pytest.mark.parametrize(("signal", "code"), [(2, 130), (15, 143)])
def test_an_interruption_exits_as_shells_expect(signal: int, code: int) -> None:
    error = Interrupted(signal, "停了", hint="hantune resume x")
    assert (error.exit_code, error.code, error.hint) == (code, "run.interrupted", "hantune resume x")
