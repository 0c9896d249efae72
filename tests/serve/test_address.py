"""The address, before a model is loaded."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from hantune.errors import ConfigError, MachineError
from hantune.serve.address import listen


def test_a_port_in_use_is_told_with_another() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(MachineError) as caught:
            listen("127.0.0.1", port)
    assert caught.value.code == "serve.port-in-use"
    assert str(port + 1) in str(caught.value.hint)


def test_addresses_that_are_none() -> None:
    with pytest.raises(ConfigError, match="serve.bad-address"):
        listen("no such host", 8000)
    with pytest.raises(MachineError, match="serve.cannot-listen"):
        listen("192.0.2.1", 8000)  # not an address of this machine


def test_nothing_heavy_is_needed_to_refuse_one() -> None:
    script = "import hantune.serve.address, hantune.serve.keys, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
