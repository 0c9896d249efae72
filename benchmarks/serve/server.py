"""``hantune serve`` as a process of its own under many clients, beside HF ``generate`` and ``transformers serve``.

    python benchmarks/serve/server.py streams --tokenizer FOLDER --dialogues FILE [--dtype float32] [--peer]
    python benchmarks/serve/server.py load    --tokenizer FOLDER --dialogues FILE [--seconds 120] [--preset tiny]

A random Llama of the preset's shape; each process computes with one thread, so that on two cores the clients have one.
``streams``  32 clients at once, each a stream of 64 tokens: tokens a second, first text, gaps. Then ``generate`` one by
             one on a part of the same prompts. With ``--peer`` also ``transformers serve`` with the same clients.
``load``     200 clients over a queue of 64; 100 that vanish in the middle of a stream; 5,000 requests and the memory.
Results go to ``benchmarks/results/serve_server.json`` (one key a run, others stay) and the ``.md`` of the same name.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import transformers
from clients import crowd, figures, listen, load, many, pool
from engine import one_by_one

from hantune.data.types import Message
from hantune.infer.batch import Question, read_questions
from hantune.infer.engine import open_engine
from hantune.models.init import init_model

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "benchmarks" / "results" / "serve_server.json"
CLIENTS, TOKENS, ALONE = 32, 64, 4
"""Streams at once, tokens of an answer, answers of ``generate`` one by one."""
CHAT_TEMPLATE = "{{ bos_token }}{% for m in messages %}[INST] {{ m['content'] }} [/INST]{% endfor %}"
"""For ``transformers serve``, which has no other way to know one: as many tokens as in our Llama 2 template."""


class Running:
    """A server process that answers at ``url``."""

    def __init__(self, words: Sequence[str], port: int, seconds: float = 120) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - for its life
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(words, env=environment, stdout=self._log, stderr=self._log)
        end = time.monotonic() + seconds
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"{words[:4]} does not start: {self.log[-2000:]}")
            time.sleep(0.2)

    @property
    def log(self) -> str:
        """What it printed so far."""
        self._log.seek(0)
        return self._log.read()

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(self.url + "/health", timeout=5) as response:
                return bool(response.status == 200)
        except OSError:
            return False

    def metric(self, name: str) -> float:
        with urllib.request.urlopen(self.url + "/metrics", timeout=60) as response:
            text = response.read().decode()
        return float(re.search(rf"(?m)^hantune_{name} (\S+)$", text)[1])  # type: ignore[index]

    @property
    def cpu_seconds(self) -> float:
        """User and system time; Linux only."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text("utf-8").rsplit(") ", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def resident_mib(self) -> float:
        """Memory now; Linux only."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text("utf-8").split()[1])
        return pages * os.sysconf("SC_PAGESIZE") / 2**20

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


@contextlib.contextmanager
def hantune(model: Path, dtype: str, *options: str) -> Iterator[Running]:
    port = free_port()
    words = [sys.executable, "-m", "hantune", "serve", str(model), "--port", str(port), "--dtype", dtype, "-q"]
    server = Running([*words, *options], port)
    try:
        yield server
    finally:
        server.stop()


@contextlib.contextmanager
def transformers_serve(model: Path, dtype: str, *options: str) -> Iterator[Running]:
    port = free_port()
    command = shutil.which("transformers", path=str(Path(sys.executable).parent)) or "transformers"
    words = [command, "serve", str(model), "--port", str(port), "--device", "cpu", "--dtype", dtype, *options]
    server = Running(words, port)
    try:
        yield server
    finally:
        server.stop()


def request(name: str, messages: Sequence[Message], tokens: int = TOKENS) -> dict[str, Any]:
    turns = [{"role": message.role, "content": message.text} for message in messages]
    return {"model": name, "messages": turns, "max_tokens": tokens, "temperature": 0}


def measure_streams(model: Path, asked: list[tuple[Message, ...]], given: argparse.Namespace) -> dict[str, Any]:
    """Ours, ``generate``, and the peer where asked for; each after a warm-up of its own."""
    several = asked[:CLIENTS]
    found: dict[str, Any] = {}
    with hantune(model, given.dtype) as server:
        asyncio.run(crowd(server.url, [request(model.name, asked[CLIENTS], 4)], 60))
        cpu = server.cpu_seconds
        heard = asyncio.run(crowd(server.url, [request(model.name, each) for each in several], given.limit))
        found["hantune serve"] = figures(heard, CLIENTS) | {"cpu_seconds": round(server.cpu_seconds - cpu, 2)}
    print(found, file=sys.stderr, flush=True)
    found["HF generate, one by one"] = alone(model, several[:: CLIENTS // ALONE], given.dtype)
    if given.peer:
        for options in ((), ("--continuous-batching",)):
            name = " ".join(("transformers serve", *options))
            found[name] = measure_peer(model, several, given, options)
            print({name: found[name]}, file=sys.stderr, flush=True)
    ours = found["hantune serve"]
    for other in found.values():
        if other is not ours and other.get("tokens"):
            other["times_wall"] = round(ours["tokens_per_second"] / other["tokens_per_second"], 2)
            cpu_rates = [each["tokens"] / each["cpu_seconds"] for each in (ours, other)]
            other["times_cpu"] = round(cpu_rates[0] / cpu_rates[1], 2)
    return found


def alone(model: Path, asked: list[tuple[Message, ...]], dtype: str) -> dict[str, Any]:
    """``generate`` on one prompt after the other, in this process, with one thread."""
    torch.set_num_threads(1)
    engine = open_engine(model, device="cpu", dtype=getattr(torch, dtype))
    one_by_one(engine, asked[:1], [4])
    cpu, wall = time.process_time(), time.perf_counter()
    tokens = one_by_one(engine, asked, [TOKENS] * len(asked))
    seconds = time.perf_counter() - wall
    return {
        "clients": 1, "complete": len(asked), "tokens": tokens, "seconds": round(seconds, 2),
        "tokens_per_second": round(tokens / seconds, 1), "cpu_seconds": round(time.process_time() - cpu, 2),
    }  # fmt: skip


def measure_peer(
    model: Path, asked: list[tuple[Message, ...]], given: argparse.Namespace, options: Sequence[str]
) -> dict[str, Any]:
    """``transformers serve`` with the same clients, for as long as ``--limit`` says; or why there is no figure."""
    file = model / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | {"chat_template": CHAT_TEMPLATE}), "utf-8")
    with transformers_serve(model, given.dtype, *options) as server:
        first = asyncio.run(crowd(server.url, [request(str(model), asked[-1], 4)], 20))
        if not any(each.times for each in first):
            log = server.log
            errors = re.findall(r"(?m)^(?:\w+\.)*\w*(?:Error|Exception)\b.*$", log)
            return {"why_not": "no text within 20 s", "log": errors[-2:] or log[-300:]}
        cpu = server.cpu_seconds
        heard = asyncio.run(crowd(server.url, [request(str(model), each) for each in asked], given.limit))
        return figures(heard, CLIENTS) | {"cpu_seconds": round(server.cpu_seconds - cpu, 2)}


def measure_load(model: Path, asked: list[tuple[Message, ...]], given: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def short(number: int) -> dict[str, Any]:
        return request(model.name, asked[number % len(asked)], 2 + number % 7)

    with hantune(model, given.dtype, "--max-queue", "64") as server:
        found["crowd"] = asyncio.run(load(server.url, 200, given.seconds, short))
        found["crowd"]["left_over"] = server.metric("requests_running") + server.metric("requests_queued")
        print(found, file=sys.stderr, flush=True)
        found["vanishing"] = asyncio.run(vanish(server, model.name, asked))
        print(found["vanishing"], file=sys.stderr, flush=True)
        asyncio.run(many(server.url, given.requests // 2, 8, short))
        before = server.resident_mib
        statuses = asyncio.run(many(server.url, given.requests, 8, short))
        after = server.resident_mib
    found["memory"] = {
        "requests": given.requests, "statuses": {str(key): count for key, count in statuses.items()},
        "mib_before": round(before, 1), "mib_after": round(after, 1),
        "growth_percent": round(100 * after / before - 100, 2),
    }  # fmt: skip
    return found


async def vanish(server: Running, name: str, asked: list[tuple[Message, ...]]) -> dict[str, Any]:
    """Four times 25 clients hang up after their first text. ``freed_seconds``: until nothing runs any more, beside the
    time of a step with 25 answers, which is what they may wait for."""
    freed, steps = [], []
    for wave in range(4):
        ready, go = [0], asyncio.Event()
        async with pool(25, 60) as client:

            async def one(number: int, client: Any = client, ready: list[int] = ready, go: asyncio.Event = go) -> None:
                body = request(name, asked[number % len(asked)], 400)
                task = asyncio.create_task(listen(client, server.url, body, lambda heard: count(heard)))
                seen = False

                def count(heard: Any) -> bool:
                    nonlocal seen
                    if heard.times and not seen:
                        seen = True
                        ready[0] += 1
                    return go.is_set()

                await go.wait()
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

            tasks = [asyncio.create_task(one(25 * wave + number)) for number in range(25)]
            while ready[0] < 25:
                await asyncio.sleep(0.01)
            steps.append(await asyncio.to_thread(step_seconds, server))
            go.set()
            await asyncio.gather(*tasks)
        began = time.perf_counter()
        while await asyncio.to_thread(server.metric, "requests_running"):
            await asyncio.sleep(0.002)
        freed.append(time.perf_counter() - began)
    return {
        "clients": 100, "freed_seconds": [round(each, 3) for each in freed],
        "step_seconds": [round(each, 3) for each in steps],
        "most_steps": round(max(a / b for a, b in zip(freed, steps, strict=True)), 2),
    }  # fmt: skip


def step_seconds(server: Running) -> float:
    """The mean time between two tokens, as the server counts it, over the next half second."""
    names = ("time_between_tokens_seconds_sum", "time_between_tokens_seconds_count")
    before = [server.metric(name) for name in names]
    time.sleep(0.5)
    after = [server.metric(name) for name in names]
    return (after[0] - before[0]) / max(after[1] - before[1], 1)


def table(results: dict[str, Any]) -> str:
    """The same as Markdown."""
    lines = ["# `hantune serve` under many clients", ""]
    for name, run in results.items():
        lines += [f"## {name}", "", f"`{run['command']}`", "", f"{run['date']}, {run['machine']}", ""]
        if run["part"] == "load":
            lines += [f"- {key}: {json.dumps(value)}" for key, value in run["rows"].items()]
        else:
            lines += ["| | tokens/s | tokens/CPU s | first text p50, p95 (s) | gap p95 (s) | ours: wall | ours: CPU |"]
            lines += ["|---|---|---|---|---|---|---|"]
            lines += [_row(*row) for row in run["rows"].items()]
        lines.append("")
    return "\n".join(lines)


def _row(name: str, row: dict[str, Any]) -> str:
    if "why_not" in row:
        return f"| {name} | {row['why_not']} | | | | | |"
    first, gap = row.get("first_text_seconds", {}), row.get("gap_seconds", {})
    cells = [
        name, row["tokens_per_second"], round(row["tokens"] / row["cpu_seconds"], 1),
        f"{first.get('p50', '')}, {first.get('p95', '')}" if first else "", gap.get("p95", ""),
        row.get("times_wall", ""), row.get("times_cpu", ""),
    ]  # fmt: skip
    return "| " + " | ".join(map(str, cells)) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["streams", "load"])
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--dialogues", type=Path, required=True)
    parser.add_argument("--preset", default="110m")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--peer", action="store_true", help="transformers serve too")
    parser.add_argument("--limit", type=float, default=60, help="seconds after which the clients hang up")
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--requests", type=int, default=5000)
    given = parser.parse_args()
    before = os.getloadavg()[0]
    questions = (item for item in read_questions(given.dialogues) if isinstance(item, Question))
    asked = [question.messages for question in islice(questions, 256)]
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        init_model(model, preset=given.preset, tokenizer=given.tokenizer)
        rows = (measure_streams if given.part == "streams" else measure_load)(model, asked, given)
    hidden = {str(given.tokenizer): given.tokenizer.name, str(given.dialogues): given.dialogues.name}
    words = [hidden.get(word, word) for word in sys.argv[1:]]
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}, Python {platform.python_version()}"
    results = json.loads(OUT.read_text("utf-8")) if OUT.exists() else {}
    results[f"{given.part} {given.preset} {given.dtype}"] = {
        "part": given.part, "command": " ".join(["python benchmarks/serve/server.py", *words]),
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{os.cpu_count()} cores, one thread a process, {versions}, "
        f"load before and after {before:.1f}, {os.getloadavg()[0]:.1f}",
        "rows": rows,
    }  # fmt: skip
    OUT.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    OUT.with_suffix(".md").write_text(table(results), encoding="utf-8")
    print(table(results))


if __name__ == "__main__":
    main()
