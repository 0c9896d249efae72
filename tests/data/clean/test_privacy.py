"""Private values are found glued to Han characters, look-alikes are not, positions are those of the text."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hantune.data.clean.privacy import KINDS, STRUCTURED, find, names_pattern

ROOT = Path(__file__).resolve().parents[3]


def load(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("卡号4111111111111111请查收", "银行卡", "4111111111111111"),
        ("身份证号11010119900307123X谢谢", "身份证", "11010119900307123X"),
        ("我手机１３８００１３８０００微信同号", "手机", "１３８００１３８０００"),
        ("138\u200b0013\u200b8000打我", "手机", "138\u200b0013\u200b8000"),
        ("一三八零零一三八零零零是我", "手机", "一三八零零一三八零零零"),
        ("vx13800138000", "手机", "13800138000"),
        ("电话010-62345678转801", "座机", "010-62345678转801"),
        ("我住在北京市海淀区中关村大街27号院3号楼2单元501室,来", "地址", "北京市海淀区中关村大街27号院3号楼2单元501室"),
        ("邮箱abc@qq.com谢谢", "邮箱", "abc@qq.com"),
        ("粤BD12345走了", "车牌", "粤BD12345"),
        ("密码是abc12345哈", "密钥", "abc12345"),
        ("张经理 1 3 8 0 0 1 3 8 0 0 0", "手机", "1 3 8 0 0 1 3 8 0 0 0"),
        ("招行卡6225 8801 2345 6789 户名李四", "银行卡", "6225 8801 2345 6789"),
        ("口令是abc12345，别忘", "密钥", "abc12345"),
        ("加v zhang_san88吧", "微信", "zhang_san88"),
        ("开https://a.cn/x?a=1&token=abcd1234打开", "网址", "https://a.cn/x?a=1&token=abcd1234"),
    ],
)
def test_values_are_found_to_the_character(text: str, kind: str, value: str) -> None:
    (found,) = find(text)
    assert (found.kind, text[found.start : found.end]) == (kind, value)


@pytest.mark.parametrize(
    "text",
    [
        "订单号13800138000什么时候到", "总价13800138000元", "2024-10-04见", "版本1.2.3.4", "icon@2x.png", "新A100显卡",
        "<手机1>和<QQ12345>", "0.13800138000", "abc13800138000def", "git@github.com:a/b", "$v->viewRenderer",
        "a/watch?v=P5AkNqLuVgY", "参加Vietnam比赛", "在1.2.3.1节",
    ],
)  # fmt: skip
def test_look_alikes_are_not(text: str) -> None:
    assert find(text) == []


def test_all_writings_of_a_value_are_one() -> None:
    writings = ("13800138000", "138 0013 8000", "+86 138-0013-8000", "１３８００１３８０００", "一三八零零一三八零零零")
    assert {find(f"打{writing}找我")[0].value for writing in writings} == {"13800138000"}


def test_names_of_the_log() -> None:
    names = names_pattern(["张三", "张三丰", "Tom", "我"])
    text = "张三丰和张三去找Tom不找Tommy, <人1>"
    assert [(text[f.start : f.end], f.kind) for f in find(text, names)] == [
        ("张三丰", "人"), ("张三", "人"), ("Tom", "人"),
    ]  # fmt: skip
    assert names_pattern(["我", " "]) is None


@pytest.mark.parametrize("name", ["pii", "pii_wild"])
def test_the_labelled_sets_are_recognised(name: str) -> None:
    pii, benchmark = load("benchmarks/data/pii.py"), load(f"benchmarks/data/{name}.py")
    messages = benchmark.labelled(4000, seed=1)
    assert sum(bool(message.spans) for message in messages) >= 2000
    for kind, score in pii.scores(pii.confusion(messages)).items():
        assert score.true > 50
        assert score.recall >= 0.98, kind
        assert score.precision >= 0.98, kind


def test_the_page_holds_the_figures_of_the_code() -> None:
    tool = load("tools/make_privacy_reference.py")
    page = (ROOT / "docs" / "reference" / "privacy.md").read_text(encoding="utf-8")
    assert page == tool.page(), "python tools/make_privacy_reference.py"
    assert tuple(tool.FORMS) == tuple(kind for kind in tool.FORMS if kind in STRUCTURED)
    assert set(tool.FORMS) == set(STRUCTURED)
    page.encode("gbk")


def test_no_false_id_card_in_real_dialogues(shared_data: Path) -> None:
    from hantune.data.raw import RawData

    count, found = 0, []
    for name in ("lccc/lccc_toy_pairs.txt", "lccc/lccc_toy_split.json", "sharegpt/sharegpt_zh_1000.jsonl"):
        for conversation in RawData(str(shared_data / name)).conversations("train"):
            count += 1
            found += [hit for message in conversation.messages for hit in find(message.text) if hit.kind == "身份证"]
    assert count > 10_000
    assert found == []


@given(
    st.lists(
        st.sampled_from(["13800138000", "张", "<", ">", "1", "a@b.cn", "QQ", " ", "\u200b", "号", "路"]), max_size=12
    )
)
def test_positions_are_in_order_and_do_not_overlap(parts: list[str]) -> None:
    text = "".join(parts)
    found = find(text)
    assert all(0 <= f.start < f.end <= len(text) and f.kind in KINDS for f in found)
    assert all(one.end <= other.start for one, other in zip(found, found[1:], strict=False))


@pytest.mark.parametrize(
    "piece",
    ["市", "1-", "123456 ", "a@", "路1", "a.b", "微信", "f:", "<手机", "北京市海淀区中关村大街", "token=a", "eyJa"],
)
def test_no_text_takes_long(piece: str) -> None:
    text = piece * (50_000 // len(piece)) + "123"
    begin = time.perf_counter()
    find(text)
    assert time.perf_counter() - begin < 1
