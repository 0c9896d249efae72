"""A user's own function is a format like the others, and only the command line can make it run."""

from __future__ import annotations

from pathlib import Path

import pytest

from hantune.data.formats import get_format
from hantune.data.formats.user import from_command_line
from hantune.data.types import Conversation, Row
from hantune.errors import ConfigError

CODE = '''
def read(record):
    """A record of my own."""
    if record.get("skip"):
        return None
    return [{"role": "user", "content": record["q"]}, {"role": "assistant", "content": record["a"]}]


def both(record):
    for _ in range(2):
        yield read(record)


def wrong(record):
    return "no list of messages"
'''


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "my_format.py"
    path.write_text(CODE, encoding="utf-8")
    return path


def read(name: str, value: object) -> list[object]:
    return [
        [message.text for message in item.messages] if isinstance(item, Conversation) else (item.reason, item.detail)
        for item in get_format(name).read(Row(value=value, source="a:1"))
    ]


def test_one_or_several_conversations(file: Path) -> None:
    name = from_command_line(f"{file}:read")
    assert name
    assert read(name, {"q": "问", "a": "答"}) == [["问", "答"]]
    assert read(str(from_command_line(f"{file}:both")), {"q": "问", "a": "答"}) == [["问", "答"]] * 2


def test_its_faults_are_rejects_with_its_line(file: Path) -> None:
    name = str(from_command_line(f"{file}:read"))
    assert read(name, {"skip": 1})[0][0] == "format.user-skipped"  # type: ignore[index]
    assert read(name, {"q": "问"}) == [("format.user-error", "KeyError: 'a' (my_format.py:6)")]
    assert read(name, {"q": "问", "a": ""})[0][0] == "format.empty-answer"  # type: ignore[index]
    assert read(str(from_command_line(f"{file}:wrong")), {})[0][0] == "format.user-error"  # type: ignore[index]


def test_the_name_holds_the_fingerprint_of_the_code(file: Path) -> None:
    name = str(from_command_line(f"{file}:read"))
    assert name.startswith(f"{file}:read@")
    assert from_command_line(name) == name
    file.write_text(CODE + "\n", encoding="utf-8")
    assert from_command_line(f"{file}:read") != name
    with pytest.raises(ConfigError, match="改过了"):
        from_command_line(name)


def test_a_name_that_was_not_typed_runs_nothing(tmp_path: Path) -> None:
    (tmp_path / "evil.py").write_text("raise SystemExit('ran')", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        get_format(f"{tmp_path / 'evil.py'}:read")
    assert caught.value.code == "format.user-code"
    assert "只能写在命令行上" in caught.value.message


@pytest.mark.parametrize(
    ("code", "words"),
    [("def read(", "SyntaxError"), ("1 / 0", "bad.py:1 运行出错: ZeroDiv"), ("read = 3", "没有叫 read 的函数")],
)
def test_files_that_are_no_format(tmp_path: Path, code: str, words: str) -> None:
    (tmp_path / "bad.py").write_text(code, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        from_command_line(f"{tmp_path / 'bad.py'}:read")
    assert caught.value.code == "format.user-code"
    assert words in caught.value.message
    with pytest.raises(ConfigError, match="没有这个文件"):
        from_command_line(f"{tmp_path / 'none.py'}:read")


def test_the_example_of_the_page_works(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "reference" / "formats.md").read_text(encoding="utf-8")
    (tmp_path / "my_format.py").write_text(page.split("```python\n")[1].split("```")[0], encoding="utf-8")
    name = str(from_command_line(f"{tmp_path / 'my_format.py'}:read"))
    record = {"主诉": "头疼", "年龄": "30", "医嘱": "多休息"}
    assert read(name, record) == [["你是一位医生.", "头疼\n(年龄 30)", "多休息"]]
    assert read(name, {**record, "医嘱": ""})[0][0] == "format.user-skipped"  # type: ignore[index]


def test_other_names_are_left_alone() -> None:
    assert [from_command_line(name) for name in (None, "alpaca", "alpacca")] == [None, "alpaca", "alpacca"]
