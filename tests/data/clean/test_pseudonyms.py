"""The same value is the same stand-in everywhere; the way back is kept apart, for its owner's eyes."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from hantune.data.clean.pseudonyms import Masker, map_path, neutral, write_map
from hantune.data.types import Conversation, Message, Reject


def test_a_value_keeps_its_stand_in() -> None:
    masker = Masker()
    assert masker.text("打13800138000或13900139000") == "打<手机1>或<手机2>"
    assert masker.text("+86 139 0013 9000, a@qq.com") == "<手机2>, <邮箱1>"
    assert masker.found == {"手机": 3, "邮箱": 1}
    assert masker.entries()["<手机2>"] == {"kind": "手机", "value": "13900139000"}


def test_conversations_rejects_and_records() -> None:
    masker = Masker()
    masker.know([("张三", "老张")])
    plain = Conversation(messages=(Message(role="user", text="你好"),))
    assert masker.conversation(plain) is plain
    told = Conversation(messages=(Message(role="user", text="张三的电话13800138000", learn=True),), source="a:1")
    masked = masker.conversation(told)
    assert (masked.messages[0].text, masked.messages[0].learn, masked.source) == ("<人1>的电话<手机1>", True, "a:1")
    reject = Reject(source="a:1", reason="r", detail="张三", record={"q": ["13800138000", 13800138000, 5, None, True]})
    assert masker.reject(reject).record == {"q": ["<手机1>", "<手机1>", 5, None, True]}
    assert masker.text("老张说") == "<人1>说"
    masker.know([])
    assert masker.text("张三") == "张三"


@given(
    st.lists(
        st.sampled_from(["13800138000", "a@b.cn", "张三", "QQ:", "12345678", "<手机1>", "验证码", "好"]), max_size=8
    )
)
def test_masking_twice_changes_nothing(parts: list[str]) -> None:
    masker = Masker()
    once = masker.text(" ".join(parts))
    assert masker.text(once) == once


def test_the_map_is_for_its_owner_only(tmp_path: Path) -> None:
    masker = Masker()
    masker.text("13800138000")
    path = map_path(tmp_path / "out")
    assert path == tmp_path / "out.pii-map.json"
    for _ in range(2):
        write_map(path, masker, "k")
    assert path.stat().st_mode & 0o777 == 0o600
    assert json.loads(path.read_bytes())["values"] == {"<手机1>": {"kind": "手机", "value": "13800138000"}}
    assert [item.name for item in tmp_path.iterdir()] == ["out.pii-map.json"]
    (tmp_path / "config.yaml").touch()
    assert map_path(tmp_path / "out") is None


def test_masked_and_unmasked_are_alike_where_values_do_not_count() -> None:
    told = Conversation(messages=(Message(role="user", text="打13800138000或13900139000, a@qq.com"),))
    assert neutral(told) == neutral(Masker().conversation(told))
    assert neutral(told).messages[0].text == "打<手机>或<手机>, <邮箱>"
