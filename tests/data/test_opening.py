"""A file opened: chat logs come first, a told format wins, people of a log are known by all their names."""

from __future__ import annotations

from pathlib import Path

import pytest

from hantune.data.opening import open_source
from hantune.data.sources import inspect
from hantune.data.types import Conversation
from hantune.errors import DataError

QQ = "\ufeff消息记录（此消息记录为文本格式，不支持重新导入）\r\n\r\n" + "\r\n".join([
    "=" * 64, "消息分组:我的好友", "=" * 64, "消息对象:张三", "=" * 64, "",
    "2016-07-19 15:27:15 张三", "在吗, 电话13800138000", "",
    "2016-07-19 15:27:55 小李", "在的, 稍等我看看", "", "",
])  # fmt: skip


def qq(folder: Path) -> Path:
    path = folder / "log.txt"
    path.write_bytes(QQ.encode())
    return path


def test_a_chat_log_gives_conversations(tmp_path: Path) -> None:
    source = inspect(qq(tmp_path))
    for format in (None, "qq"):
        opened = open_source(source, format, ["小李"])
        assert opened.found.name == "qq"
        assert opened.people is not None
        assert {names[0] for names in opened.people} == {"张三", "小李"}
        found = [item for _, item in opened.items(source) if isinstance(item, Conversation)]
        assert [message.text for message in found[0].messages] == ["在吗, 电话13800138000", "在的, 稍等我看看"]
        assert opened.log is not None
        assert opened.log.kept == 2
        assert list(opened.results(found[0])) == found


def test_without_me_the_people_are_named(tmp_path: Path) -> None:
    source = inspect(qq(tmp_path))
    with pytest.raises(DataError, match="张三") as caught:
        list(open_source(source, None).items(source))
    assert caught.value.code == "chatlog.who-am-i"
