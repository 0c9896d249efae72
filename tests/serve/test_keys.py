"""Keys: who they let in, and what is known of them."""

from __future__ import annotations

import pytest

from hantune.errors import ConfigError
from hantune.serve.errors import ApiError
from hantune.serve.keys import NOBODY, Keys, is_loopback, new_key, require_good_keys
from tests.serve.conftest import KEY

Header = tuple[bytes, bytes]


def bearer(key: str) -> Header:
    return b"authorization", f"Bearer {key}".encode()


def test_a_right_key_has_a_name_that_does_not_give_it_away() -> None:
    keys = Keys([KEY, "another-key-0123456789"])
    name = keys.owner([(b"host", b"x"), bearer(KEY)])
    assert name == keys.owner([(b"authorization", b"bearer  " + KEY.encode())]) == Keys([KEY]).owner([bearer(KEY)])
    assert name != keys.owner([bearer("another-key-0123456789")])
    assert len(name) == 8
    assert name not in KEY


def test_a_server_without_keys_lets_everybody_in() -> None:
    assert not Keys()
    assert Keys().owner([]) == Keys().owner([bearer("whatever")]) == NOBODY


@pytest.mark.parametrize(
    "headers",
    [
        [], [bearer("wrong")], [bearer("")], [(b"authorization", b"Bearer")], [(b"authorization", KEY.encode())],
        [(b"authorization", b"Basic " + KEY.encode())], [bearer(KEY), bearer(KEY)], [bearer(KEY + "x")],
        [bearer(KEY[:-1])], [(b"x-api-key", KEY.encode())], [(b"cookie", b"key=" + KEY.encode())],
        [(b"authorization", b"Bearer \xff\xfe")], [bearer(KEY), bearer("wrong")],
    ],
    ids=range(13),
)  # fmt: skip
def test_everybody_else_stays_outside(headers: list[Header]) -> None:
    with pytest.raises(ApiError) as caught:
        Keys([KEY]).owner(headers)
    assert caught.value.status == 401
    assert caught.value.headers == {"www-authenticate": "Bearer"}


def test_new_keys_differ_and_are_good() -> None:
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    require_good_keys(list(keys), "0.0.0.0")


@pytest.mark.parametrize(
    ("key", "host"),
    [("", "127.0.0.1"), ("a b", "127.0.0.1"), ("密钥" * 10, "127.0.0.1"), ("short", "0.0.0.0"), ("x\n", "::1")],
)
def test_bad_keys_are_refused(key: str, host: str) -> None:
    with pytest.raises(ConfigError, match=r"serve\.bad-key"):
        require_good_keys([key], host)
    require_good_keys(["short"], "127.0.0.1")


def test_what_only_this_machine_reaches() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.8.8.8", "localhost", "LocalHost", "::1", "[::1]")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.0.3", "example.com", "", "localhost.example.com")))
