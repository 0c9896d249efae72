"""What a stopped run tells can be typed as it stands."""

from __future__ import annotations

import shlex
from pathlib import Path

from hantune.config.io import load_config
from hantune.paths import RunFolder
from hantune.train.remedy import Remedy


def test_a_shell_reads_the_words_that_were_meant() -> None:
    remedy = Remedy(RunFolder(Path("runs/我的 一次")))
    changes = ("train.learning_rate=1e-05", "adapter.targets=all-linear")
    words = shlex.split(remedy.anew(*changes))
    assert words == ["hantune", "train", "runs/我的 一次/config.yaml", *changes]
    assert load_config(None, words[3:]).config.train.learning_rate == 1e-5
    assert shlex.split(remedy.go_on()) == ["hantune", "resume", "runs/我的 一次"]
