"""Preparing with cleaning, private values, duplicates and chat logs: accounted for, equal bytes, nothing leaks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from hantune.data.prepare import blocked_words, prepare
from hantune.data.prepared import open_prepared
from hantune.errors import ConfigError, DataError
from tests.laws import examples

SECRETS = ("13800138000", "abc@qq.com", "110101199003077715", "张三", "小李")


def write(path: Path, records: Any) -> str:
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return str(path)


def accounts(manifest: dict[str, Any]) -> bool:
    return manifest["kept"] + sum(manifest["dropped"].values()) == manifest["read"]


def texts(out: Path) -> list[str]:
    prepared = open_prepared(out)
    return [m.text for part in ("train", "val") for c in prepared.conversations(part) for m in c.messages]


def log(folder: Path, name: str, days: int) -> str:
    """A WeChat-like log of two people; every day a session of three questions, at day 2 a phone number."""
    rows = ["time,sender,text"]
    for day in range(days):
        for turn in range(3):
            private = "我的电话13800138000和邮箱abc@qq.com" if day == 2 else f"第{day}天第{turn}问"
            rows.append(f"2024-10-{day + 1:02} 1{turn}:00:00,张三,{private}")
            rows.append(f"2024-10-{day + 1:02} 1{turn}:00:20,小李,张三你好 这是第{day}天第{turn}答")
    rows.append("2024-11-01 10:00:00,张三,没人回的话110101199003077715")
    path = folder / name
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return str(path)


def test_a_chat_log_is_masked_everywhere_and_its_map_lies_apart(tmp_path: Path) -> None:
    source = log(tmp_path, "和张三的聊天.csv", 12)
    for name in ("one", "two"):
        manifest = prepare([source], tmp_path / name, me=["小李"], dedup="near", clean="default", val_share=0.3)
    assert accounts(manifest)
    assert manifest["sources"][0]["path"] == "和<人1>的聊天.csv"
    assert manifest["sources"][0]["log"]["read"] == 73
    assert "- 读了 73 条消息" in (tmp_path / "one" / "card.md").read_text(encoding="utf-8")
    assert {"手机", "邮箱", "人", "身份证"} <= set(manifest["pii"]["found"])
    for path in (tmp_path / "one").iterdir():
        data = path.read_bytes()
        assert data == (tmp_path / "two" / path.name).read_bytes()
        assert not [secret for secret in SECRETS if secret.encode() in data], path.name
    everything = "".join(texts(tmp_path / "one"))
    assert not [secret for secret in SECRETS if secret in everything]
    assert "<手机1>" in everything
    table = tmp_path / "one.pii-map.json"
    assert table.stat().st_mode & 0o777 == 0o600
    values = {entry["value"] for entry in json.loads(table.read_bytes())["values"].values()}
    assert set(SECRETS) <= values | {"小李"}


def test_a_log_without_a_sample_says_what_became_of_its_messages(tmp_path: Path) -> None:
    path = tmp_path / "聊天.csv"
    path.write_text("time,sender,text\n" + "2024-10-01 10:00:00,张三,在吗\n" * 30, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        prepare([str(path)], tmp_path / "out", me=["张三"])
    assert caught.value.code == "data.nothing-usable"
    assert "30 条消息没有成为一个样本" in caught.value.message
    assert "你的话前面没有别人的话" in caught.value.message
    assert "--me" in str(caught.value.hint)


def test_sessions_are_never_on_both_sides(tmp_path: Path) -> None:
    prepare([log(tmp_path, "a.csv", 28)], tmp_path / "out", me=["小李"], pii="keep", val_share=0.3)
    prepared = open_prepared(tmp_path / "out")
    hours = {
        part: {m.text.split("天")[0] + m.text[-2] for c in prepared.conversations(part) for m in c.messages[1:]}
        for part in ("train", "val")
    }
    assert hours["train"]
    assert hours["val"]
    assert not hours["train"] & hours["val"]


def test_what_is_said_in_every_session_does_not_join_them(tmp_path: Path) -> None:
    rows = ["time,sender,text"]
    for day in range(1, 29):
        rows += [f"2024-10-{day:02} 10:00:00,张三,在吗", f"2024-10-{day:02} 10:00:20,小李,在的"]
        rows += [f"2024-10-{day:02} 10:20:00,张三,第{day}天吃什么", f"2024-10-{day:02} 10:20:20,小李,第{day}天吃面"]
    path = tmp_path / "a.csv"
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    manifest = prepare([str(path)], tmp_path / "out", me=["小李"], val_share=0.3)
    assert manifest["train"] >= 14
    assert 8 <= manifest["val"] <= 28
    assert set(manifest["dropped"]) == {"split.in-val"}
    assert accounts(manifest)
    open_prepared(tmp_path / "out").refuse_overlap()
    assert prepare([str(path)], tmp_path / "strict", me=["小李"], val_share=0.3, strict=True)["val"] == manifest["val"]


def test_inside_a_run_there_is_no_map(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    prepare([log(tmp_path, "a.csv", 4)], tmp_path / "prepared", me=["小李"])
    assert not list(tmp_path.glob("*pii-map*"))
    assert "13800138000" not in "".join(texts(tmp_path / "prepared"))
    prepare([log(tmp_path, "a.csv", 4)], tmp_path / "new" / "run" / "prepared", me=["小李"], keep_map=False)
    assert not list(tmp_path.rglob("*pii-map*"))


def test_other_data_keep_their_values_unless_told(tmp_path: Path) -> None:
    records = [{"question": "电话13800138000", "answer": "好"}, {"question": "你好", "answer": ""}]
    records += [{"question": f"问{i}, 电话13900139000", "answer": ""} for i in range(2)]
    source = write(tmp_path / "a.jsonl", records)
    prepare([source], tmp_path / "keep")
    assert "13800138000" in texts(tmp_path / "keep")[0]
    manifest = prepare([source], tmp_path / "mask", pii="mask")
    assert texts(tmp_path / "mask")[0] == "电话<手机1>"
    assert "<手机2>" in (tmp_path / "mask" / "rejects.jsonl").read_text(encoding="utf-8")
    assert manifest["flags"]["pii"] == "mask"
    records.append({"question": "再见", "answer": "再见"})
    manifest = prepare([write(tmp_path / "b.jsonl", records)], tmp_path / "drop", pii="drop")
    assert manifest["dropped"] == {"format.empty-answer": 3, "pii.found": 1}
    assert accounts(manifest)
    assert "1380" not in (tmp_path / "drop" / "rejects.jsonl").read_text(encoding="utf-8")
    assert not list(tmp_path.glob("drop*map*"))


def test_every_drop_of_every_rule_is_accounted_for(tmp_path: Path) -> None:
    records = [{"question": f"第{i}个问题是什么意思呢, 请讲讲", "answer": f"第{i}个 回答"} for i in range(40)]
    records += [records[0], {"question": "?", "answer": "好"}, {"question": "问", "answer": "[INST]"}]
    records += [{"question": "代开发票吗", "answer": "开"}, {"question": "@某人", "answer": "嗯"}]
    words = tmp_path / "words.txt"
    words.write_text("# 屏蔽\n发票\n", encoding="utf-8")
    source = write(tmp_path / "a.jsonl", records)
    flags: dict[str, Any] = {"dedup": "exact", "clean": "default", "blocked": words}
    manifest = prepare([source], tmp_path / "out", **flags, strict=True)
    assert accounts(manifest)
    wanted = {"clean.blocked": 1, "clean.empty": 1, "clean.length": 1, "clean.template": 1, "dedup.exact": 1}
    assert manifest["dropped"] == wanted
    lines = [json.loads(line) for line in (tmp_path / "out" / "rejects.jsonl").read_bytes().splitlines()]
    assert [(line["source"], line["reason"]) for line in lines] == [
        ("a.jsonl:42", "clean.length"), ("a.jsonl:43", "clean.template"), ("a.jsonl:44", "clean.blocked"),
        ("a.jsonl:45", "clean.empty"), ("a.jsonl:41", "dedup.exact"),
    ]  # fmt: skip
    assert manifest["clean"]["samples"]["spaces"][0] == {
        "source": "a.jsonl:1", "before": "第0个 回答", "after": "第0个回答",
    }  # fmt: skip
    assert manifest["duplicates"]["pairs"] == [{"kept": "a.jsonl:1", "dropped": "a.jsonl:41", "similarity": 1.0}]
    card = (tmp_path / "out" / "card.md").read_text(encoding="utf-8")
    assert "--dedup exact --clean control,width" in card
    assert "| spaces |" in card
    card.encode("gbk")
    words.write_text("别的\n", encoding="utf-8")
    assert prepare([source], tmp_path / "out", **flags, replace=True)["dropped"].get("clean.blocked") is None


def test_what_is_like_the_validation_data_is_an_error_with_strict(tmp_path: Path) -> None:
    text = "请问明天下午的会议改到几点开始, 需要带什么材料过去"
    train = write(
        tmp_path / "a.jsonl", [{"question": text + "?", "answer": "三点"}, {"question": "别的", "answer": "好"}]
    )
    val = write(tmp_path / "v.jsonl", [{"question": text, "answer": "三点"}])
    manifest = prepare([train], tmp_path / "out", val=[val], dedup="near")
    assert (manifest["train"], manifest["dropped"]) == (1, {"split.near-val": 1})
    with pytest.raises(DataError) as caught:
        prepare([train], tmp_path / "strict", val=[val], dedup="near", strict=True)
    assert caught.value.code == "split.near-val"


QUESTIONS = st.sampled_from([
    "明天下午的会议改到几点开始", "明天下午的会议改到几点开始?", "电话13800138000对吗", "?", "",
    "加我微信abc123兼职日结", "你 好", "哈哈哈哈哈哈",
])  # fmt: skip
RECORDS = st.lists(
    st.fixed_dictionaries({"question": QUESTIONS, "answer": st.sampled_from(["好", "三 点", "", "[INST]"])})
)


@examples(8, 25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    train=RECORDS,
    val=RECORDS,
    dedup=st.sampled_from(["off", "exact", "near"]),
    pii=st.sampled_from([None, "mask", "drop"]),
    clean=st.sampled_from([None, "default"]),
    max_samples=st.sampled_from([None, 2]),
)
def test_kept_and_dropped_are_all_that_was_read(
    tmp_path: Path, train: list[dict[str, str]], val: list[dict[str, str]], **flags: Any
) -> None:
    sources = [write(tmp_path / "t.jsonl", [{"question": "在吗", "answer": "在的"}, *train])]
    held_out = [write(tmp_path / "v.jsonl", [{"question": "再见", "answer": "回见"}, *val])]
    manifest = prepare(sources, tmp_path / "out", val=held_out, replace=True, **flags)
    assert accounts(manifest)
    assert manifest["read"] == len(train) + len(val) + 2
    assert sum(source["kept"] for source in manifest["sources"]) == manifest["kept"]
    prepared = open_prepared(tmp_path / "out")
    prepared.refuse_overlap()
    assert (manifest["train"], manifest["val"]) == (prepared.count("train"), prepared.count("val"))
    lines = (tmp_path / "out" / "rejects.jsonl").read_bytes().splitlines()
    told = sum(count for reason, count in manifest["dropped"].items() if reason != "sampled-out")
    assert len(lines) == told
    if flags["dedup"] != "off":
        assert len(set(prepared.ids("train"))) == manifest["train"]


def test_blocked_words(tmp_path: Path) -> None:
    path = tmp_path / "w.txt"
    path.write_text("\ufeff乙\n\n# 注\n甲\n乙\n", encoding="utf-8")
    assert blocked_words(path) == ["乙", "甲"]
    assert blocked_words(None) == []
    for data in (b"", b"\xff\xff"):
        path.write_bytes(data)
        with pytest.raises(ConfigError) as caught:
            blocked_words(path)
        assert caught.value.code == "clean.no-words"
