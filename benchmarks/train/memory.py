"""What bases in fewer bits and lean optimisers save on a CPU: memory, processor time and held-out loss of short runs.

    python benchmarks/train/memory.py --model MODEL --data PREPARED_OR_FILE [--steps 10] [--out RESULT.json]
        [--only NAME ...] [SECTION.KEY=VALUE ...]

Every way is a process of its own. ``load_mb``: the most memory of its own (without mapped files) while the model is
loaded; ``train_mb``: the most that lay in memory while it trained. Compare processor seconds, not wall time.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from importlib import metadata
from pathlib import Path
from typing import Any

WAYS = {
    "lora": [],
    "lora 8bit": ["model.load=8bit"],
    "lora 4bit": ["model.load=4bit"],
    "lora recompute": ["train.activation_checkpointing=true"],
    "full adamw": ["adapter.kind=none", "train.learning_rate=5e-5"],
    "full adamw8bit": ["adapter.kind=none", "train.learning_rate=5e-5", "train.optimizer=adamw8bit"],
}
QUIET = ["eval.probes=[]", "eval.max_samples=16", "eval.every_steps=1000000", "train.save_every_steps=1000000"]


def memory() -> dict[str, float]:
    """MB in memory, and MB of its own, of this process."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    fields = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith(("VmRSS", "RssAnon"))}
    return {"all": int(fields["VmRSS"]) / 1024, "own": int(fields["RssAnon"]) / 1024}


class Watch(threading.Thread):
    """The most memory before and after the run's events begin."""

    def __init__(self, events: Path) -> None:
        super().__init__(daemon=True)
        self.events = events
        self.before = memory()["own"]
        self.load, self.train, self.cpu, self.is_over = self.before, 0.0, 0.0, False

    def run(self) -> None:
        while not self.is_over:
            now = memory()
            if self.events.is_file():
                self.cpu = self.cpu or time.process_time()
                self.train = max(self.train, now["all"])
            else:
                self.load = max(self.load, now["own"])
            time.sleep(0.005)


def child(overrides: list[str], out: Path, result: Path) -> None:
    import transformers.models.llama.modeling_llama  # noqa: F401  (so that importing it does not count)

    from hantune.config.io import load_config
    from hantune.log import read_events
    from hantune.paths import RunFolder
    from hantune.train.run import train

    watch = Watch(RunFolder(out).events)
    watch.start()
    done = train(load_config(None, [*overrides, f"train.output_dir={out}"]).config)
    watch.is_over = True
    watch.join()
    steps = read_events(done.run.events, "step")
    tokens = sum(step["tokens"] for step in steps)
    found = {
        "load_mb": round(watch.load - watch.before), "train_mb": round(watch.train),
        "cpu_s_per_1000_tokens": round(1000 * (time.process_time() - watch.cpu) / tokens, 3),
        "loss_before": done.loss_before, "loss_after": done.loss_after, "steps": len(steps), "tokens": tokens,
    }  # fmt: skip
    result.write_text(json.dumps(found), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--only", nargs="*", default=[*WAYS], choices=[*WAYS])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", nargs=2, type=Path, help=argparse.SUPPRESS)
    given, overrides = parser.parse_known_args()
    shared = [f"model.path={given.model}", f"data.path={given.data}", f"train.max_steps={given.steps}", *QUIET]
    if given.child:
        child([*shared, *overrides], *given.child)
        return
    found: dict[str, Any] = {}
    for name in given.only:
        with tempfile.TemporaryDirectory() as folder:
            result = Path(folder) / "result.json"
            command = [
                sys.executable, __file__, "--model", str(given.model), "--data", str(given.data),
                "--steps", str(given.steps), "--child", f"{folder}/run", str(result), *WAYS[name], *overrides,
            ]  # fmt: skip
            subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
            found[name] = json.loads(result.read_bytes())
        print(name, found[name], flush=True)
    if given.out:
        versions = {package: metadata.version(package) for package in ("torch", "transformers", "peft", "bitsandbytes")}
        whole = {"command": sys.argv[1:], "versions": versions, "date": time.strftime("%Y-%m-%d"), "ways": found}
        given.out.write_text(json.dumps(whole, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
