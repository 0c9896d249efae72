"""Who may use the server: keys, compared in constant time, and never kept or logged themselves."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
from collections.abc import Sequence

from hantune.errors import ConfigError
from hantune.serve.errors import ApiError

SHORTEST = 16
"""Characters of a key that guards an address others can reach."""
NOBODY = "-"
"""The owner of requests to a server without keys."""

Headers = Sequence[tuple[bytes, bytes]]


class Keys:
    """The keys of a server; none: everybody may use it."""

    def __init__(self, keys: Sequence[str] = ()) -> None:
        self._digests = [_digest(key.encode()) for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def owner(self, headers: Headers) -> str:
        """A short name for the key of a request; the same key has the same name, which does not give it away.

        Only ``Authorization: Bearer KEY`` counts: what stands in an address ends up in logs and histories.
        Raises: ApiError 401.
        """
        if not self._digests:
            return NOBODY
        given = [value for name, value in headers if name == b"authorization"]
        scheme, _, key = given[0].partition(b" ") if len(given) == 1 else (b"", b"", b"")
        digest = _digest(key.strip())
        # All are compared, so that the time tells nothing about which one it was.
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        if scheme.lower() != b"bearer" or not any(matches):
            raise ApiError(
                401,
                "密钥不对或没有密钥. 把它放在请求头里: Authorization: Bearer 密钥",
                code="invalid_api_key",
                headers={"www-authenticate": "Bearer"},
            )
        return digest.hex()[:8]


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(b"hantune serve " + key).digest()


def new_key() -> str:
    """A key nobody can guess."""
    return "sk-" + secrets.token_urlsafe(32)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach ``host``."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def require_good_keys(keys: Sequence[str], host: str) -> None:
    """Nothing, if every key can stand in a header and, where others can reach ``host``, is hard to guess.

    Raises: ConfigError ``serve.bad-key``.
    """
    for key in keys:
        if not key or not all("!" <= character <= "~" for character in key):
            raise ConfigError(
                "serve.bad-key",
                "密钥只能用看得见的 ASCII 字符, 不能有空格, 也不能是空的",
                place="--api-key",
                hint="不写 --api-key, 让它自己生成一个, 或者用 openssl rand -hex 24 生成",
            )
        if len(key) < SHORTEST and not is_loopback(host):
            raise ConfigError(
                "serve.bad-key",
                f"密钥只有 {len(key)} 个字符, 别的机器能连上的地址要 {SHORTEST} 个以上",
                place="--api-key",
                hint="不写 --api-key, 让它自己生成一个, 或者用 openssl rand -hex 24 生成",
            )
