"""whatsapp: the text that WhatsApp exports, from Android (``date, time - name: text``) and iOS (``[date, time] ...``).

The order of day and month depends on the phone; it is found from the headers of the file: the order in which every
date exists and time walks the shortest way.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import NamedTuple

from hantune.data import encoding
from hantune.data.formats.common import plain
from hantune.data.formats.said import LONGEST, MARK, Line, Said, hour_of, joined, lines, seconds_of, unsaid
from hantune.data.rows import SourceFile

NAME = "whatsapp"
SHAPE = "WhatsApp 导出的文本 (_chat.txt)"
INVISIBLE = "\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff"
"""Marks of the writing direction, which exports are full of."""
BLANK = INVISIBLE + " \n"
TELLING_LINES = 50_000
"""Lines from which the order of day and month is told."""
ORDERS = {"ymd": (0, 1, 2), "dmy": (2, 1, 0), "mdy": (2, 0, 1)}
"""Name -> where year, month and day stand."""
_STAMP = re.compile(
    rf"[{INVISIBLE}]*(?P<open>\[?)(\d{{1,4}})[-/.年]\s?(\d{{1,2}})[-/.月]\s?(\d{{1,4}})日?,?\s"
    rf"(?:(?P<early>{MARK})\s?)?(\d{{1,2}})[:.](\d\d)(?:[:.](\d\d))?(?:\s?(?P<late>{MARK}))?(?:\]\s|\s[-–]\s)"
)
EDITED = ("<This message was edited>", "<此消息已编辑>", "<已编辑>", "<這則訊息已編輯>")
_WORDS = {
    "未知": "media|媒体文件|媒體檔案|多媒体|影音",
    "图片": "image|photo|图像|图片|照片|圖像|圖片|相片|IMG|PHOTO", "视频": "video|视频|影片|視訊|VID|VIDEO",
    "语音": "audio|voice message|音频|语音|音訊|語音|PTT|AUD|AUDIO|OPUS", "动画表情": "sticker|贴图|貼圖|STK|STICKER",
    "用户上传的GIF表情": "GIF", "文件": "document|文档|文件|DOC", "名片": "contact card|联系人名片|名片|聯絡人",
}  # fmt: skip
_MEDIA = [(kind, re.compile(words, re.IGNORECASE)) for kind, words in _WORDS.items()]
_OMITTED = re.compile(
    r"<[^<>\n]*(?:omitted|省略|忽略|略過|attached|附件)[^<>\n]*>"
    rf"|(?:{'|'.join(_WORDS.values())}|video note)s? ?(?:omitted|已?(?:忽略|省略|略去|略過))"
    r"|\S+\.\w{2,4} [(\uff08](?:file attached|文件附件|附件|檔案附件|已附加文件)[)\uff09].*",
    re.IGNORECASE | re.DOTALL,
)
_DELETED = re.compile(
    r"(?:This message was deleted|You deleted this message)(?: by .*)?\.?"
    r"|(?:此消息已(?:被)?删除|[您你]已?删除了?(?:此|这条)消息|此訊息已(?:被)?刪除|[您你]已?刪除了?(?:此|這則)訊息)[。.]?"
)
_CALL = re.compile(
    r"(?:Missed (?:group )?(?:voice|video) call|未接(?:的)?(?:语音|视频|語音|視訊)(?:通话|通話|来电|來電)).*", re.DOTALL
)


class Stamp(NamedTuple):
    """The date and time of a header as they are written, and where the rest of the line begins."""

    numbers: tuple[str, str, str]
    clock: tuple[int, int, int]
    mark: str | None
    rest: int


def stamp_of(line: str) -> Stamp | None:
    """What stands before the sender, or None where the line is no header."""
    match = _STAMP.match(line)
    if not match or (match["open"] == "[") != (match[0].rstrip()[-1] == "]"):
        return None
    mark = match["early"] or match["late"]
    hour, minute, second = (int(match[at] or 0) for at in (6, 7, 8))
    return Stamp((match[2], match[3], match[4]), (hour_of(hour, mark), minute, second), mark, match.end())


def seconds(stamp: Stamp, order: str) -> int | None:
    """Seconds since 1970 if the date is written in this order, or None if it is not."""
    year, month, day = (stamp.numbers[at] for at in ORDERS[order])
    if len(month) > 2 or len(day) > 2 or len(year) == 3:
        return None
    return seconds_of(int(year) + 2000 * (len(year) <= 2), int(month), int(day), *stamp.clock)


def matches(head: str) -> str | None:
    """Why the beginning of a file looks like an export of WhatsApp, or None."""
    count = sum(bool(stamp_of(line)) for line in head.split("\n"))
    is_first = bool(stamp_of(head.lstrip().split("\n", 1)[0]))
    return f"第一行和另外 {count - 1} 行是 日期 时间 - 名字: 正文" if is_first and count >= 2 else None


def date_order(source: SourceFile) -> str:
    """``ymd``, ``dmy`` or ``mdy``: the order in which all dates exist and time walks the shortest way."""
    missing, way, last = (dict.fromkeys(("dmy", "mdy"), 0) for _ in range(3))
    has_mark = False
    for stamp, _ in itertools.islice(_headers(source), TELLING_LINES):
        if stamp is None:
            continue
        if len(stamp.numbers[0]) == 4:
            return "ymd"
        has_mark |= bool(stamp.mark and stamp.mark[0].lower() in "ap")
        for order in way:
            time = seconds(stamp, order)
            if time is None:
                missing[order] += 1
                continue
            way[order] += abs(time - last[order]) if last[order] else 0
            last[order] = time
    preferred = ("mdy", "dmy") if has_mark else ("dmy", "mdy")
    return min(preferred, key=lambda order: (missing[order], way[order]))


def _headers(source: SourceFile) -> Iterator[tuple[Stamp | None, Line]]:
    """Every line, with its stamp where it begins a message.

    iOS ends messages with CRLF and lines inside them with LF, so there a quoted header is told apart.
    """
    with source.open_text() as file:
        first = file.readline()
    needs_crlf = first.endswith("\r\n")
    with source.open_text() as file:
        may_begin = True
        for line in lines(file, "\n"):
            yield (stamp_of(line.text) if may_begin else None), line
            may_begin = line.text.endswith("\r") or not needs_crlf


def read(source: SourceFile) -> Iterator[Said]:
    """Every message in the order of the file."""
    order = date_order(source)
    opened: tuple[int, Line, int] | None = None
    body: list[str] = []
    length = 0
    for stamp, line in _headers(source):
        time = seconds(stamp, order) if stamp else None
        if stamp and time is not None:
            if opened:
                yield _message(source, *opened[:2], body)
            opened, body, length = (time, line, stamp.rest), [line.text[stamp.rest :]], 0
        elif opened and length <= LONGEST:
            body.append(line.text)
            length += len(line.text)
    if opened:
        yield _message(source, *opened[:2], body)


def _message(source: SourceFile, time: int, line: Line, body: list[str]) -> Said:
    """The message that began at ``line``; without a name before a colon it is the client's own notice."""
    sender, colon, first = body[0].partition(": ")
    if not colon and body[0].rstrip("\r").endswith(":"):
        sender, colon, first = body[0].rstrip("\r")[:-1], ":", ""
    name = encoding.BROKEN.sub("\ufffd", sender.strip(INVISIBLE + " \u00a0"))
    text = joined([first, *body[1:]])
    said = Said(time=time, sender=name, name=name, text=plain(text), chat="", place=f"{source.place}:{line.number}")
    return judged(said) if colon else unsaid(said._replace(sender="", name=""), "系统通知")


def judged(said: Said) -> Said:
    """The message as text, or as none for its kind."""
    if encoding.BROKEN.search(said.text):
        return unsaid(said, "乱码", cutting=False)
    text = said.text
    if text.rstrip(BLANK).endswith(EDITED):
        text = text[: text.rindex("<")].rstrip(BLANK)
    bare = text.strip(INVISIBLE + " ")
    if _DELETED.fullmatch(bare):
        return unsaid(said, "消息撤回")
    if _CALL.fullmatch(bare):
        return unsaid(said, "语音通话")
    if _OMITTED.fullmatch(bare):
        return unsaid(said, next((kind for kind, words in _MEDIA if words.search(bare)), "未知"))
    if text.startswith("\u200e"):  # iOS marks its own notices in a sender's name so
        return unsaid(said, "系统通知")
    return said._replace(text=text) if bare else unsaid(said, "空消息")
