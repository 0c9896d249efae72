"""The page: one file, inert, the same bytes each time, whole whatever of the run is missing."""

from __future__ import annotations

import importlib.resources
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from hantune.paths import RunFolder
from hantune.report.data import RunData, read_run
from hantune.report.page import MAX_ANSWERS, MAX_PROBE_STEPS, _ending, render, write_report
from tests.laws import examples

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)> \"' {{ 7 * 7 }} </pre></style>"
VOID = {"meta", "br", "link", "img", "input", "hr"}


class Page(HTMLParser):
    """Tags, attributes and ids of a page, checked for balance on the way."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.links: list[str] = []
        self.ids: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            self.attributes.add(name)
            if name in ("src", "href", "xlink:href", "action", "data"):
                self.links.append(value or "")
            if name == "id":
                self.ids.append(value or "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)


def test_a_whole_run_makes_a_whole_page(run: RunFolder) -> None:
    path = write_report(run)
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert path == run.report
    assert {"answers", "metrics", "curves", "probes", "data", "mask", "machine", "repeat", "appendix"} <= set(page.ids)
    words = "".join(page.words)
    for wanted in (
        "损失从 5.54 降到 1.86", "我是小汉, 很高兴认识你.", "只有一句话, 没有回答 format.one-turn", "1,946",
        "toyhom_neike.csv", "gb18030", "其中 27 个要学", "每秒 1,747 个词元", "CPU 有 bf16 指令", "4 比特 (NF4",
        "hantune chat runs/demo",
        "hantune model merge runs/demo/adapter --out runs/demo-merged", "hantune train runs/demo/config.yaml",
        "2.13.0+cpu", "learning_rate: 2e-4", "字 BLEU", "变好", "第 48 步",
    ):  # fmt: skip
        assert wanted in words, wanted


def test_the_page_asks_for_nothing_and_runs_nothing(run: RunFolder) -> None:
    text = write_report(run).read_text(encoding="utf-8")
    page = Page(text)
    assert page.tags.isdisjoint({"script", "link", "img", "iframe", "object", "form"})
    assert all(link.startswith("#") for link in page.links)
    assert not any(name.startswith("on") for name in page.attributes)
    assert "default-src 'none'" in text
    assert "@import" not in text
    assert "http://" not in text
    assert "https://" not in text
    assert len(page.ids) == len(set(page.ids))


def test_whatever_users_wrote_is_inert(run: RunFolder) -> None:
    def poisoned(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: poisoned(item) for key, item in value.items()} | {EVIL: EVIL}
        if isinstance(value, list):
            return [poisoned(item) for item in value]
        return EVIL if isinstance(value, str) and value not in ("step", "eval", "end") else value

    manifest = run.prepared / "manifest.json"
    for path in (run.evaluation, run.plan, run.env, manifest, run.root / "mask_sample.json"):
        path.write_text(json.dumps(poisoned(json.loads(path.read_bytes()))), encoding="utf-8")
    for path in (run.samples, run.events):
        rows = [json.dumps(poisoned(json.loads(line))) for line in path.read_bytes().splitlines()]
        path.write_text("\n".join(rows), encoding="utf-8")
    run.config.write_text(f"model: {{path: {json.dumps(EVIL)}}}\n# {EVIL}\n", encoding="utf-8")
    page = Page(write_report(run).read_text(encoding="utf-8"))
    assert page.tags.isdisjoint({"script", "img"})
    assert "onerror" not in page.attributes
    assert EVIL in "".join(page.words)


def test_a_name_with_markup_is_inert(tmp_path: Path, run: RunFolder) -> None:
    odd = run.root.rename(tmp_path / "a<b onload=x>&c")
    page = Page(write_report(RunFolder(odd)).read_text(encoding="utf-8"))
    assert "onload" not in page.attributes
    assert "hantune chat 'a<b onload=x>&c'" in "".join(page.words)


def test_the_same_run_gives_the_same_bytes(run: RunFolder, tmp_path: Path) -> None:
    first = write_report(run).read_bytes()
    second = write_report(run, tmp_path / "new" / "two.html").read_bytes()
    absolute = write_report(RunFolder(Path("runs/demo")), tmp_path).read_bytes()
    assert first == second == absolute
    assert (tmp_path / "report.html").is_file()


@pytest.mark.parametrize(
    "name",
    ["config.yaml", "events.jsonl", "env.json", "plan.json", "samples.jsonl", "evaluation.json", "mask_sample.json",
     "prepared/manifest.json"],
)  # fmt: skip
def test_each_file_may_be_missing(run: RunFolder, name: str) -> None:
    (run.root / name).unlink()
    Page(write_report(run).read_text(encoding="utf-8"))


def test_a_run_killed_at_once_still_has_a_page(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.root.mkdir()
    run.config.write_text("train: {seed: 1}\n", encoding="utf-8")
    page = Page(write_report(run).read_text(encoding="utf-8"))
    assert page.ids == ["repeat", "appendix"]
    assert "这次运行还没有可以看的结果." in "".join(page.words)
    assert f"hantune resume {tmp_path.name}/run" in "".join(page.words) or "hantune resume run" in "".join(page.words)


def test_torn_characters_and_control_characters_do_not_stop_the_page(run: RunFolder) -> None:
    row = '{"step": 0, "prompt": "\\ud83d", "answer": "\\u0000\\u202e左", "finish_reason": "stop"}\n'
    run.samples.write_text(row, encoding="utf-8")
    assert "左" in write_report(run).read_text(encoding="utf-8")


def test_much_is_shown_in_part_and_counted(run: RunFolder) -> None:
    data = read_run(run)
    side = {"answers": [{"prompt": f"第{i}问", "answer": "长" * 5000} for i in range(MAX_ANSWERS + 7)]}
    events = tuple({"event": "step", "step": i, "loss": 1 / i, "learning_rate": 1e-4} for i in range(1, 50_000))
    many = RunData(name="r", evaluation={"before": side, "after": side}, events=events, mask=(("长", True),) * 9000)
    text = render(many)
    assert "还有 7 个问题" in text
    assert "(还有 4,400 个字)" in text
    assert "后面还有 8200 个词元" in text
    assert len(text.encode()) < 400_000
    assert len(data.probes[0].answers) <= MAX_PROBE_STEPS


def test_each_round_of_the_fixed_questions_is_a_row(run: RunFolder) -> None:
    text = write_report(run).read_text(encoding="utf-8")
    found = re.findall(r"<tr><td>(\d+)</td>(.*?)</tr>", text)
    rows = [(step, re.findall(r">([^<]+)</td>", cells)) for step, cells in found]
    assert rows[0] == ("0", ["40%", "0%", "25%", "0%", "1.10", "0"])
    assert rows[-1] == ("96", ["90%", "100%", "0%", "12%", "1.10", "80.0"])
    assert "试答用时" in text
    assert _ending(read_run(run)) == "全部步数练完"
    early = {"event": "end", "step": 9, "kept": 6, "reason": "early-stop"}
    assert _ending(RunData(name="r", events=(early,))) == "提前停止, 验证损失不再下降; 结果取第 6 步"


def test_without_held_out_dialogues_the_page_does_not_speak_of_unseen_ones(run: RunFolder) -> None:
    path = run.prepared / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"val": 0}), encoding="utf-8")
    text = write_report(run).read_text(encoding="utf-8")
    assert "训练时没见过的对话上测的" not in text
    assert "没有留出对话" in text


def test_the_data_card_tells_of_fewer_and_of_too_long_conversations(run: RunFolder) -> None:
    run.plan.write_text('{"num_samples": 200, "dropped": {"tokens.nothing-left": 3}}', encoding="utf-8")
    text = write_report(run).read_text(encoding="utf-8")
    assert "训练实际用了 200 段" in text
    assert "3 段一轮也放不进 data.max_tokens" in text


def test_only_bare_names_of_source_files_are_told(run: RunFolder) -> None:
    text = write_report(run).read_text(encoding="utf-8")
    assert "/home/zhang" not in text
    assert "C:\\data" not in text


def test_our_own_words_suit_a_gbk_reader() -> None:
    importlib.resources.files("hantune").joinpath("report/page.html").read_text(encoding="utf-8").encode("gbk")


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from(
    ["before", "after", "held_out", "metrics", "answers", "loss", "prompt", "answer", "dropped", "sources", "read",
     "kept", "train", "val", "precision", "name", "reason", "parameters", "learned", "total", "total_steps",
     "versions", "path", "model", "adapter", "kind", "data", "sha256", "step", "event", "seconds", "tokens", "base",
     "id", "format"]
)  # fmt: skip
OBJECTS = st.dictionaries(KEYS, ANYTHING | st.dictionaries(KEYS, ANYTHING, max_size=4), max_size=6)
EVENTS = st.lists(
    st.builds(
        lambda kind, rest: {**rest, "event": kind},
        st.sampled_from(["step", "eval", "end", "warning", "resume"]),
        OBJECTS,
    ),
    max_size=5,
)


@examples(15, 60, suppress_health_check=list(HealthCheck))
@given(config=OBJECTS, plan=OBJECTS, manifest=OBJECTS, evaluation=OBJECTS, env=OBJECTS, adapter=OBJECTS, events=EVENTS)
def test_whatever_the_files_hold_a_page_is_made(
    config: Any, plan: Any, manifest: Any, evaluation: Any, env: Any, adapter: Any, events: Any
) -> None:
    data = RunData(
        name="r",
        config=config,
        plan=plan,
        manifest=manifest,
        evaluation=evaluation,
        environment=env,
        adapter=adapter,
        events=tuple(events),
    )
    Page(render(data))
