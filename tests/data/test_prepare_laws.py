"""What holds of ``prepare`` over many kinds of files at once: shards, workers and kills change no byte."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hantune.data.prepare import prepare
from tests.data.lccc_lines import files_of, use_small_blocks, write_lccc

WORDS = "今天明天去哪里吃火锅米饭面条比较好的呢你们觉得怎么样我看还是算了吧下次再说"
FLAGS: list[dict[str, Any]] = [
    {},
    {"dedup": "near", "clean": "default", "max_samples": 900},
    {"dedup": "exact", "clean": "default", "pii": "drop", "max_turns": 1},
    {"dedup": "near", "val": True},
]
names = [",".join(flags) or "plain" for flags in FLAGS]


def said(draw: random.Random) -> str:
    """A sentence; some come again with another end, or hold what the cleaning and the privacy rules see."""
    start = "".join(random.Random(draw.randrange(400)).choices(WORDS, k=30))
    return start + draw.choice(["", "。", "啊啊啊啊啊啊", " <br>", "http://t.cn/abc", "打13800138000", "ＡＢ１"])


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], str]:
    """A folder of six kinds of files with broken and repeated records in them, and a file to be held out."""
    folder, draw = tmp_path_factory.mktemp("in"), random.Random(1)
    write_lccc(folder / "a.jsonl")
    alpaca = [{"instruction": said(draw), "input": "", "output": said(draw)} for _ in range(500)]
    (folder / "b.json").write_text(json.dumps(alpaca, ensure_ascii=False, indent=1), encoding="utf-8")
    rows = ["问题,回答", *(f"{said(draw)},{said(draw)}" for _ in range(300)), "只有问题,"]
    (folder / "c.csv").write_text("\n".join(rows), encoding="gb18030")
    chats = [
        {"conversations": [{"from": who, "value": said(draw)} for who in ("human", "gpt") * 2]} for _ in range(250)
    ]
    with zipfile.ZipFile(folder / "d.zip", "w") as archive:
        archive.writestr("e.jsonl", "\n".join([*(json.dumps(chat) for chat in chats), "{torn"]))
    table = pa.Table.from_pylist([{"question": said(draw), "answer": said(draw)} for _ in range(300)])
    pq.write_table(table, folder / "f.parquet")
    parts = {
        "train": [[said(draw), said(draw)] for _ in range(90)],
        "valid": [[said(draw), said(draw)] for _ in range(20)],
    }
    (folder / "g.json").write_text(json.dumps(parts), encoding="utf-8")
    held_out = folder.parent / "val.jsonl"
    held_out.write_text("\n".join(json.dumps(pair) for pair in alpaca[:30]), encoding="utf-8")
    return [str(folder), f"{folder / 'b.json'}:0.4"], str(held_out)


def run(sources: tuple[list[str], str], out: Path, flags: dict[str, Any], **more: Any) -> dict[str, Any]:
    flags = {**flags, "val": [sources[1]]} if flags.get("val") else flags
    return prepare(sources[0], out, **flags, **more)


@pytest.mark.parametrize("flags", FLAGS, ids=names)
def test_four_shards_merged_are_one_run(
    tmp_path: Path, sources: tuple[list[str], str], flags: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    use_small_blocks(monkeypatch)
    manifest = run(sources, tmp_path / "one", flags, workers=1)
    assert manifest["dropped"], "the mixture has something of everything"
    shards = [tmp_path / f"s{number}" for number in (3, 1, 4, 2)]
    for shard in shards:
        run(sources, shard, flags, shard=f"{shard.name[1]}/4", workers=1)
    prepare([str(shard) for shard in shards], tmp_path / "merged")
    assert files_of(tmp_path / "merged") == files_of(tmp_path / "one")


@pytest.mark.parametrize("pii", ["keep", "drop"])
def test_shards_of_a_chat_log_are_one_run(tmp_path: Path, pii: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hantune.data.blocks.in_blocks.__defaults__", (3,))
    said = (("小明(10001)", "在吗"), ("我(10002)", "在"), ("小明(10001)", "打这个"), ("我(10002)", "好"))
    lines = [
        f"2024-05-{day:02} 10:{minute:02}:00 {who}\n{text} {'13800138000' if day % 6 == minute else day}\n"
        for day in range(1, 29)
        for minute, (who, text) in enumerate(said)
    ]
    (tmp_path / "log.txt").write_text("\n".join(lines), encoding="utf-8")
    flags: dict[str, Any] = {"me": ["我"], "pii": pii, "clean": "default"}
    manifest = prepare([str(tmp_path / "log.txt")], tmp_path / "one", workers=1, **flags)
    assert manifest["sources"][0]["log"]["read"] == len(lines)
    shards = [tmp_path / f"s{number}" for number in (2, 1)]
    for shard in shards:
        prepare([str(tmp_path / "log.txt")], shard, shard=f"{shard.name[1]}/2", workers=1, **flags)
    prepare([str(shard) for shard in shards], tmp_path / "merged")
    assert files_of(tmp_path / "merged") == files_of(tmp_path / "one")
    assert (manifest["dropped"].get("pii.found", 0) > 0) == (pii == "drop")


@pytest.mark.parametrize("flags", FLAGS[1:2], ids=names[1:2])
def test_two_workers_are_one(
    tmp_path: Path, sources: tuple[list[str], str], flags: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    use_small_blocks(monkeypatch)
    for count in (1, 2):
        run(sources, tmp_path / str(count), flags, workers=count)
    assert files_of(tmp_path / "1") == files_of(tmp_path / "2")


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
@pytest.mark.parametrize("shares", [(0, 0.6), pytest.param((0, 0.3, 0.6, 0.9), marks=pytest.mark.slow)])
def test_killed_at_any_moment_and_run_again(
    tmp_path: Path, sources: tuple[list[str], str], shares: tuple[float, ...]
) -> None:
    """Kills spread over the time between the first file and the end; the last run sweeps what they left."""
    words = ["--dedup", "near", "--clean", "default", "--max-samples", "900", "--workers", "1", "--quiet"]
    command = [sys.executable, "-m", "hantune", "data", "prepare", *sources[0], *words, "--out"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    nowhere = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}

    def attempt(out: Path, seconds: float) -> tuple[int, float]:
        """(exit code, time it worked) of a run that is killed so long after its temporary folder is there."""
        with subprocess.Popen([*command, str(out)], env=environment, **nowhere) as process:  # type: ignore[call-overload]
            while process.poll() is None and not list(tmp_path.glob(f".tmp-*-{process.pid}")):
                time.sleep(0.001)
            start = time.monotonic()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(seconds)
            process.kill()
            return process.wait(), time.monotonic() - start

    code, whole = attempt(tmp_path / "one", 600)
    assert code == 0
    codes = [attempt(tmp_path / "out", whole * share)[0] for share in shares]
    assert codes[0] == -signal.SIGKILL
    assert attempt(tmp_path / "out", 600)[0] == 0
    assert files_of(tmp_path / "out") == files_of(tmp_path / "one")
    assert not list(tmp_path.glob(".tmp-*"))
