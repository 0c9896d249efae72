"""Preparing: every record is accounted for, equal input gives equal bytes, nothing is overwritten or left half-done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hantune.data.prepare import prepare
from hantune.data.prepared import fingerprint_of, is_prepared, open_prepared
from hantune.errors import ConfigError, DataError, RefusedError, RunError
from hantune.log import console
from hantune.paths import RunFolder


def write(path: Path, records: Any) -> str:
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return str(path)


def pairs(count: int, start: int = 0) -> list[dict[str, str]]:
    return [{"question": f"第{i}个问题", "answer": f"第{i}个回答"} for i in range(start, start + count)]


def texts(out: Path, part: Any) -> list[str]:
    return [conversation.messages[0].text for conversation in open_prepared(out).conversations(part)]


def accounts(manifest: dict[str, Any]) -> bool:
    by_source = sum(source["read"] for source in manifest["sources"]), sum(s["kept"] for s in manifest["sources"])
    return manifest["kept"] + sum(manifest["dropped"].values()) == manifest["read"] and by_source == (
        manifest["read"],
        manifest["kept"],
    )


def test_every_record_is_accounted_for(tmp_path: Path) -> None:
    bad = [{"question": "无答", "answer": ""}, {"question": "", "answer": "无问"}, {"other": 1}]
    both = {"question": ["甲", "乙", ""], "answer": "丙"}
    source = write(tmp_path / "a.jsonl", [*pairs(100), *bad, both])
    with open(source, "a", encoding="utf-8") as file:
        file.write('{"question": \n')
    manifest = prepare([source], tmp_path / "out", max_samples=30)
    assert accounts(manifest)
    assert manifest["read"] == 105
    dropped = {"format.empty-answer", "format.empty-question", "format.unknown-fields", "source.broken-json"}
    assert dropped < set(manifest["dropped"])
    assert manifest["train"] == 30
    assert manifest["dropped"]["sampled-out"] == 101 - manifest["kept"]
    lines = [json.loads(line) for line in (tmp_path / "out" / "rejects.jsonl").read_bytes().splitlines()]
    assert [(line["source"], line["reason"]) for line in lines] == [
        ("a.jsonl:101", "format.empty-answer"),
        ("a.jsonl:102", "format.empty-question"),
        ("a.jsonl:103", "format.unknown-fields"),
        ("a.jsonl:104", "format.empty-question"),
        ("a.jsonl:105", "source.broken-json"),
    ]
    assert lines[0]["record"] == bad[0]


def test_equal_input_gives_equal_bytes_also_across_row_groups(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", pairs(9000))
    for out in ("one", "two"):
        prepare([source], tmp_path / out, val_share=0.3)
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == ["card.md", "manifest.json", "rejects.jsonl", "train.parquet", "val.parquet"]
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    prepared = open_prepared(tmp_path / "one")
    assert prepared.fingerprint == fingerprint_of(tmp_path / "one")
    assert (prepared.count("train"), prepared.count("val")) == (
        len(texts(tmp_path / "one", "train")),
        len(texts(tmp_path / "one", "val")),
    )
    order = [int(text[1:-3]) for text in texts(tmp_path / "one", "train")]
    assert order == sorted(order)


def test_no_conversation_is_on_both_sides(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", pairs(200) + pairs(200))
    manifest = prepare([source], tmp_path / "out", val_share=0.2)
    assert manifest["train"] + manifest["val"] == 400
    assert not set(texts(tmp_path / "out", "train")) & set(texts(tmp_path / "out", "val"))
    open_prepared(tmp_path / "out").refuse_overlap()


def test_explicit_val_rows_leave_the_training_rows(tmp_path: Path) -> None:
    train, val = write(tmp_path / "a.jsonl", pairs(50)), write(tmp_path / "b.jsonl", pairs(5, start=48))
    console.warnings.clear()
    manifest = prepare([train], tmp_path / "out", val=[val])
    assert (manifest["train"], manifest["val"], manifest["dropped"]) == (48, 5, {"split.in-val": 2})
    assert accounts(manifest)
    assert "2 条和验证数据相同" in console.warnings[0]
    assert manifest["first_places"] == {"split.in-val": "a.jsonl:49"}
    with pytest.raises(DataError) as caught:
        prepare([train], tmp_path / "strict", val=[val], strict=True)
    assert caught.value.code == "split.in-val"


def test_the_valid_part_of_an_object_is_held_out(tmp_path: Path) -> None:
    dialogues = [[f"{i}问", f"{i}答"] for i in range(60)]
    data = {"train": dialogues[:40], "valid": dialogues[38:50], "test": dialogues[50:]}
    path = tmp_path / "lccc.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    manifest = prepare([str(path)], tmp_path / "out")
    assert (manifest["train"], manifest["val"]) == (38, 12)
    assert manifest["dropped"] == {"source.test-part": 10, "split.in-val": 2}
    assert accounts(manifest)
    other = write(tmp_path / "b.jsonl", pairs(7))
    manifest = prepare([str(path)], tmp_path / "told", val=[other])
    assert (manifest["train"], manifest["val"]) == (40, 7)
    assert manifest["dropped"] == {"source.test-part": 10, "source.val-part": 12}
    manifest = prepare([other], tmp_path / "as-val", val=[str(path)])
    assert (manifest["train"], manifest["val"]) == (7, 12)
    assert accounts(manifest)


def test_a_train_part_alone_is_split(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"train": [[f"{i}", "答"] for i in range(100)]}), encoding="utf-8")
    manifest = prepare([str(path)], tmp_path / "out", val_share=0.2)
    assert manifest["val"] > 5


def test_few_conversations_are_all_trained_on_with_a_warning(tmp_path: Path) -> None:
    console.warnings.clear()
    manifest = prepare([write(tmp_path / "a.jsonl", pairs(3))], tmp_path / "out")
    assert (manifest["train"], manifest["val"]) == (3, 0)
    assert "没有验证数据" in console.warnings[0]


def test_max_turns_keeps_the_first_pairs(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", [["一", "二", "三", "四", "五", "六"], ["一", "二", "三", "四", "五", "不同"]])
    prepare([source], tmp_path / "out", max_turns=2)
    first, second = open_prepared(tmp_path / "out").conversations("train")
    assert [message.text for message in first.messages] == ["一", "二", "三", "四"]
    assert first.id == second.id
    system = write(
        tmp_path / "b.jsonl", [{"instruction": "问", "output": "答", "system": "教", "history": [["a", "b"]]}]
    )
    prepare([system], tmp_path / "out2", max_turns=1)
    (only,) = open_prepared(tmp_path / "out2").conversations("train")
    assert [message.text for message in only.messages] == ["教", "a", "b"]


def test_learn_bits_and_sources_survive(tmp_path: Path) -> None:
    turns = [
        {"role": "user", "content": "问"},
        {"role": "assistant", "content": "答", "weight": 0},
        {"role": "user", "content": "再问"},
        {"role": "assistant", "content": "再答"},
    ]
    source = write(tmp_path / "a.jsonl", [{"messages": turns}])
    prepare([source], tmp_path / "out")
    (found,) = open_prepared(tmp_path / "out").conversations("train")
    assert [message.learn for message in found.messages] == [None, False, None, None]
    assert found.source == "a.jsonl:1"
    manifest = prepare([str(tmp_path / "out")], tmp_path / "again")
    assert list(open_prepared(tmp_path / "again").conversations("train")) == [found]
    assert manifest["sources"][0]["format"] == "messages"


def test_the_second_run_is_no_work_and_other_flags_are_refused(tmp_path: Path) -> None:
    source, out = write(tmp_path / "a.jsonl", pairs(50)), tmp_path / "out"
    first = prepare([source], out)
    stamp = (out / "train.parquet").stat().st_mtime_ns
    assert prepare([source], out) == first
    assert (out / "train.parquet").stat().st_mtime_ns == stamp
    for change in ({"max_samples": 5}, {"seed": 1}):
        with pytest.raises(RunError) as caught:
            prepare([source], out, **change)  # type: ignore[arg-type]
        assert caught.value.code == "run.exists"
    assert prepare([source], out, max_samples=5, replace=True)["train"] == 5
    write(tmp_path / "a.jsonl", pairs(51))
    with pytest.raises(RunError):
        prepare([source], out, max_samples=5)


def test_a_foreign_folder_is_never_replaced(tmp_path: Path) -> None:
    source, out = write(tmp_path / "a.jsonl", pairs(3)), tmp_path / "mine"
    out.mkdir()
    (out / "precious.txt").write_text("x", encoding="utf-8")
    with pytest.raises(RunError) as caught:
        prepare([source], out, replace=True)
    assert caught.value.code == "run.exists"
    assert (out / "precious.txt").exists()
    with pytest.raises(RunError):
        prepare([source], Path(source))


def test_two_at_once_are_told_apart(tmp_path: Path) -> None:
    source, out = write(tmp_path / "a.jsonl", pairs(3)), tmp_path / "out"
    with RunFolder(out).lock(), pytest.raises(RunError) as caught:
        prepare([source], out)
    assert caught.value.code == "run.in-use"
    assert prepare([source], out)["train"] == 3


def test_nothing_usable_names_the_three_commonest_reasons(tmp_path: Path) -> None:
    bad = [{"question": "问", "answer": ""}] * 5 + [{"question": "", "answer": "答"}] * 4 + [{"x": 1}] * 3
    source = write(tmp_path / "a.jsonl", [*bad, {"question": [[]], "answer": []}])
    with pytest.raises(DataError) as caught:
        prepare([source], tmp_path / "out")
    assert (caught.value.code, caught.value.exit_code, caught.value.place) == ("data.nothing-usable", 5, "a.jsonl:1")
    for word in (
        "读了 13 条",
        "回答是空的 (format.empty-answer) 5 条, 第一处 a.jsonl:1",
        "第一处 a.jsonl:6",
        "第一处 a.jsonl:10",
    ):
        assert word in caught.value.message
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".tmp-*"))


def test_no_record_at_all(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[]", encoding="utf-8")
    (tmp_path / "b.jsonl").write_text("{broken\n{broken\n", encoding="utf-8")
    for name, word in (("a.json", "没有一条记录"), ("b.jsonl", r"\(source.broken-json\) 2 条")):
        with pytest.raises(DataError, match=word) as caught:
            prepare([str(tmp_path / name)], tmp_path / "out")
        assert caught.value.code == "data.nothing-usable"


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("{broken", "source.broken-json"),
        ('{"question": "问", "answer": ""}', "format.empty-answer"),
        ('{"question": "", "answer": "答"}', "format.empty-question"),
        ('{"question": {}, "answer": "答"}', "format.not-text"),
        ('{"other": 1}', "format.unknown-fields"),
    ],
)
def test_strict_raises_the_code_of_the_first_reject(tmp_path: Path, line: str, code: str) -> None:
    source = write(tmp_path / "a.jsonl", pairs(3))
    with open(source, "a", encoding="utf-8") as file:
        file.write(line + "\n")
    assert prepare([source], tmp_path / "lenient")["dropped"] == {code: 1}
    with pytest.raises(DataError) as caught:
        prepare([source], tmp_path / "out", strict=True)
    assert (caught.value.code, caught.value.place) == (code, "a.jsonl:4")
    assert not is_prepared(tmp_path / "out")


@pytest.mark.parametrize(
    ("record", "code"),
    [
        ({"conversations": [{"from": "human", "value": "问"}]}, "format.one-turn"),
        ({"conversations": [{"from": "gpt", "value": "答"}]}, "format.roles"),
        ({"conversations": [{"from": "observation", "value": "x"}]}, "format.tool-turn"),
        (
            {"messages": [{"role": "user", "content": "问"}, {"role": "assistant", "content": "答", "weight": 0}]},
            "format.nothing-to-learn",
        ),
    ],
)
def test_strict_codes_of_chat_formats(tmp_path: Path, record: Any, code: str) -> None:
    with pytest.raises(DataError) as caught:
        prepare([write(tmp_path / "a.jsonl", [record])], tmp_path / "out", strict=True)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("name", "data", "code"),
    [
        ("a.csv", "question,answer\n一,二,三\n".encode(), "source.broken-csv"),
        ("a.txt", "你好\t好\n".encode() * 3 + b"\xff\t\xff\n", "source.broken-text"),
    ],
)
def test_strict_codes_of_text_files(tmp_path: Path, name: str, data: bytes, code: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError) as caught:
        prepare([str(tmp_path / name)], tmp_path / "out", strict=True)
    assert caught.value.code == code


def test_a_told_format_is_used(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", [{"instruction": "问", "input": "多", "output": "答"}])
    prepare([source], tmp_path / "pairs", format="pairs")
    assert texts(tmp_path / "pairs", "train") == ["问"]
    with pytest.raises(ConfigError) as caught:
        prepare([source], tmp_path / "x", format="alpacca")
    assert caught.value.code == "format.unknown-name"


def test_what_the_manifest_says_of_paths_is_no_secret(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", pairs(30))
    prepare([source], tmp_path / "out", val=[write(tmp_path / "v.jsonl", pairs(3, 100))])
    for path in (tmp_path / "out").iterdir():
        assert str(tmp_path).encode() not in path.read_bytes()
    card = (tmp_path / "out" / "card.md").read_text(encoding="utf-8")
    assert "训练 30 段, 验证 3 段" in card
    assert "hantune data prepare a.jsonl --out DIR --seed 42 --val v.jsonl" in card
    card.encode("gbk")


def test_overlap_planted_by_hand_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare([write(tmp_path / "a.jsonl", pairs(50))], out)
    (out / "val.parquet").write_bytes((out / "train.parquet").read_bytes())
    with pytest.raises(RefusedError) as caught:
        open_prepared(out).refuse_overlap()
    assert caught.value.code == "split.overlap"


def test_a_folder_that_is_not_prepared(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        open_prepared(tmp_path / "nothing")
    assert caught.value.code == "data.not-prepared"
    prepare([write(tmp_path / "a.jsonl", pairs(3))], tmp_path / "out")
    (tmp_path / "out" / "manifest.json").write_text("{", encoding="utf-8")
    with pytest.raises(DataError) as caught:
        open_prepared(tmp_path / "out").manifest  # noqa: B018
    assert caught.value.code == "data.not-prepared"


SHARED = {
    "lccc/lccc_toy_split.json": ("lccc", 1200, 1200),
    "lccc/hub_lines": ("lccc", 20, 20),
    "alpaca/alpaca_zh_1000.json": ("alpaca", 1000, 1000),
    "alpaca/传统诗词及文化常识问题.json": ("alpaca", 31, 31),
    "dialogue/film_dev.json": ("kdconv", 150, 150),
    "medical/medicalgpt_medical_sft_1K_format.jsonl": ("sharegpt", 1000, 1000),
    "medical/toyhom_neike_gb18030.csv": ("pairs", 7644, 7644),
    "sharegpt/sharegpt_zh_1000.jsonl": ("sharegpt", 1000, 998),
}


@pytest.mark.parametrize("name", SHARED)
def test_real_files(shared_data: Path, tmp_path: Path, name: str) -> None:
    format, read, kept = SHARED[name]
    manifest = prepare([str(shared_data / name)], tmp_path / "out")
    assert {source["format"] for source in manifest["sources"]} == {format}
    assert (manifest["read"], manifest["kept"]) == (read, kept)
    assert accounts(manifest)
