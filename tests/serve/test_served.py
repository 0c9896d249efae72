"""The names under which models are offered, and the queue behind them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from hantune.errors import ConfigError
from hantune.serve.served import names, public_name
from tests.serve.conftest import ask


class Opened:
    """What ``names`` looks at in an engine."""

    def __init__(self, name: str, adapter: str | None = None, adapters: tuple[str, ...] = ()) -> None:
        self.name, self.adapter, self.adapters = name, adapter, adapters


def test_names_show_no_path(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "第一次"
    (run / "adapter").mkdir(parents=True)
    for name in ("config.yaml", "events.jsonl"):
        (run / name).touch()
    assert public_name(str(run)) == public_name(f"{run}/") == public_name(str(run / "adapter")) == "第一次"
    snapshot = "/somewhere/models--Qwen--Qwen3-0.6B/snapshots/abc"
    assert public_name(snapshot) == "Qwen/Qwen3-0.6B"
    assert public_name("Qwen/Qwen3-0.6B") == "Qwen/Qwen3-0.6B"
    (tmp_path / "model").mkdir()
    assert public_name(str(tmp_path / "model")) == "model"
    before = Path.cwd()
    os.chdir(run)
    try:
        assert public_name(".") == "第一次"
    finally:
        os.chdir(before)


def test_the_one_that_was_asked_for_comes_first() -> None:
    def found(model: str, opened: Opened) -> list[tuple[str, str | None]]:
        return list(names(model, opened).items())  # type: ignore[arg-type]

    assert found("/a/base", Opened("/a/base")) == [("base", None)]
    assert found("/a/base", Opened("/a/base", adapters=("x", "y"))) == [("base", None), ("x", "x"), ("y", "y")]
    own = Opened("/a/base", "/r/demo", ("default", "x"))
    assert found("/r/demo", own) == [("demo", "default"), ("base", None), ("x", "x")]
    same = Opened("/a/demo", "/r/demo", ("default",))
    assert found("/r/demo", same) == [("demo", "default"), ("demo-base", None)]
    with pytest.raises(ConfigError, match=r"infer\.adapter-name"):
        found("/a/base", Opened("/a/base", adapters=("base",)))


@pytest.mark.usefixtures("slow")
def test_a_full_queue_says_when_to_come_back(own_client: Any, served: Any) -> None:
    """Four run, four wait; what does not fit is refused as a whole, and all that was taken is answered."""
    import threading

    def post() -> None:
        answers.append(own_client.post("/v1/chat/completions", json=ask(n=4, max_tokens=30)))

    answers: list[Any] = []
    threads = [threading.Thread(target=post) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    statuses = sorted(answer.status_code for answer in answers)
    assert statuses.count(200) >= 2
    assert set(statuses) == {200, 429}
    for answer in answers:
        if answer.status_code == 429:
            assert answer.json()["error"]["code"] == "queue_full"
            assert 1 <= int(answer.headers["retry-after"]) <= 60
