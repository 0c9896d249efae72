"""Chat logs as the clients write them, of invented people: ``qq(messages)`` gives the bytes of a file, and so on.

The writers go from messages to bytes by the description of the formats, not by way of the readers under test.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from hantune.data.formats.logs import detect_log, read_log
from hantune.data.formats.said import Said
from hantune.data.sources import SourceFile, inspect

START = datetime(2021, 3, 5, 8, 3, 5)
TITLE = "消息记录\uff08此消息记录为文本格式\uff0c不支持重新导入\uff09"
RULE = "=" * 64
ME, MEI, HU = "20010001", "30020002", "40030003"
NAMES = {ME: "沈小满", MEI: "梅朵", HU: "胡同口的猫"}


@dataclass(frozen=True)
class Line:
    """One message: who (an id), what, how many seconds after ``START``."""

    who: str
    text: str
    at: int = 0
    chat: str = ""

    @property
    def time(self) -> datetime:
        return START + timedelta(seconds=self.at)

    @property
    def seconds(self) -> int:
        return int((self.time - datetime(1970, 1, 1)).total_seconds())


def talk(*lines: tuple[str, str, int]) -> list[Line]:
    """Messages (who, text, seconds after the one before)."""
    at, result = 0, []
    for who, text, later in lines:
        at += later
        result.append(Line(who, text, at))
    return result


def on(chat: str, lines: Sequence[Line]) -> list[Line]:
    return [replace(line, chat=chat) for line in lines]


# ---- QQ -------------------------------------------------------------------------------------------------------------


def qq_time(time: datetime) -> str:
    """As QQ writes it: the hour is not padded."""
    return f"{time:%Y-%m-%d} {time.hour}:{time:%M:%S}"


def qq_message(header: str, body: str) -> str:
    return f"{header}\r\n{body}\r\n\r\n"


def qq_block(group: str, object: str, messages: str) -> str:
    return f"{RULE}\r\n消息分组:{group}\r\n{RULE}\r\n消息对象:{object}\r\n{RULE}\r\n\r\n{messages}"


def qq_file(*blocks: str) -> bytes:
    return ("\ufeff" + TITLE + "\r\n\r\n" + "".join(blocks)).encode()


def qq(lines: Sequence[Line], *, has_ids: bool = True, group: str = "我的群", object: str = "读书会") -> bytes:
    """An export of one chat."""
    rows = [
        qq_message(f"{qq_time(line.time)} {NAMES[line.who]}" + (f"({line.who})" if has_ids else ""), line.text)
        for line in lines
    ]
    return qq_file(qq_block(group, object, "".join(rows)))


# ---- tables ---------------------------------------------------------------------------------------------------------


def table(header: str, rows: Sequence[Sequence[object]], end: str = "\r\n") -> bytes:
    """A CSV file with the column names of ``header``."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator=end)
    writer.writerow(header.split(","))
    writer.writerows(rows)
    return text.getvalue().encode("utf-8-sig")


V2 = "id,MsgSvrID,type_name,is_sender,talker,room_name,msg,src,CreateTime,is_forward"
V1 = "id,MsgSvrID,type_name,is_sender,talker,room_name,content,CreateTime"
STORED = "localId,TalkerId,Type,SubType,IsSender,CreateTime,Status,StrContent,StrTime,Remark,NickName,Sender"
LISTED = "Time,SenderName,Sender,TalkerName,Talker,Content"


def wechat_v2(lines: Sequence[Line], kinds: Sequence[str] = ()) -> bytes:
    kinds = kinds or ["文本"] * len(lines)
    rows = [
        (n, 9000 + n, kind, int(line.who == ME), line.who, line.chat, line.text, "", f"{line.time}", "FALSE")
        for n, (line, kind) in enumerate(zip(lines, kinds, strict=True))
    ]
    return table(V2, rows)


def wechat_v1(lines: Sequence[Line]) -> bytes:
    def content(text: str) -> str:
        return json.dumps({"src": "", "msg": text}, ensure_ascii=False)

    rows = [
        (n, 9000 + n, "文本", int(line.who == ME), line.who, line.chat, content(line.text), f"{line.time}")
        for n, line in enumerate(lines)
    ]
    return table(V1, rows)


def wechat_stored(lines: Sequence[Line]) -> bytes:
    rows = [
        (
            n,
            line.chat,
            1,
            0,
            int(line.who == ME),
            line.seconds,
            "",
            line.text,
            f"{line.time}",
            "",
            NAMES[line.who],
            line.who,
        )
        for n, line in enumerate(lines)
    ]
    return table(STORED, rows)


def wechat_listed(lines: Sequence[Line]) -> bytes:
    rows = [
        (f"{line.time}", "我" if line.who == ME else NAMES[line.who], line.who, "对方", line.chat, line.text)
        for line in lines
    ]
    return table(LISTED, rows)


def generic(lines: Sequence[Line], header: str = "time,sender,text,chat") -> bytes:
    return table(header, [(f"{line.time}", line.who, line.text, line.chat) for line in lines], end="\n")


def generic_json(lines: Sequence[Line]) -> bytes:
    rows = [{"timestamp": line.seconds, "from": line.who, "content": line.text, "chat": line.chat} for line in lines]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


# ---- Telegram and WhatsApp ------------------------------------------------------------------------------------------


def telegram_chat(lines: Sequence[Line], id: int = 77, type: str = "personal_chat") -> dict[str, object]:
    """One chat; every second text is a list of strings and entities, as links and bold words make it."""
    messages = []
    for n, line in enumerate(lines):
        cut = len(line.text) // 2
        parts = [line.text[:cut], {"type": "bold", "text": line.text[cut:]}]
        messages.append({
            "id": n, "type": "message", "date": f"{line.time:%Y-%m-%dT%H:%M:%S}", "date_unixtime": str(line.seconds),
            "from": NAMES[line.who], "from_id": f"user{line.who}", "text": parts if n % 2 else line.text,
            "text_entities": [],
        })  # fmt: skip
    return {"name": "梅朵", "type": type, "id": id, "messages": messages}


def telegram(lines: Sequence[Line]) -> bytes:
    return json.dumps(telegram_chat(lines), ensure_ascii=False, indent=1).encode()


def telegram_full(*chats: dict[str, object]) -> bytes:
    value = {
        "about": "导出说明",
        "personal_information": {"user_id": int(ME), "first_name": "小满"},
        "contacts": {"about": "", "list": [{"first_name": "梅朵", "date": "2020-01-01T00:00:00"}]},
        "chats": {"about": "", "list": list(chats)},
    }
    return json.dumps(value, ensure_ascii=False, indent=1).encode()


WHATSAPP = {
    "android": lambda t: f"{t.day:02}/{t.month:02}/{t.year}, {t:%H:%M} - ",
    "android-us": lambda t: (
        f"{t.month}/{t.day}/{t:%y}, {t.hour % 12 or 12}:{t:%M}\u202f{'PM' if t.hour > 11 else 'AM'} - "
    ),
    "android-zh": lambda t: (
        f"{t.year}/{t.month}/{t.day} {'下午' if t.hour > 11 else '上午'}{t.hour % 12 or 12}:{t:%M} - "
    ),
    "android-de": lambda t: f"{t:%d.%m.%y}, {t:%H:%M} - ",
    "ios": lambda t: f"[{t:%d/%m/%Y}, {t:%H:%M:%S}] ",
    "ios-zh": lambda t: (
        f"\u200e[{t.year}/{t.month}/{t.day} {'下午' if t.hour > 11 else '上午'}{t.hour % 12 or 12}:{t:%M:%S}] "
    ),
    "ios-us": lambda t: f"[{t.month}/{t.day}/{t:%y}, {t.hour % 12 or 12}:{t:%M:%S} {'PM' if t.hour > 11 else 'AM'}] ",
}


def whatsapp(lines: Sequence[Line], shape: str = "android") -> bytes:
    """Android ends lines with LF; iOS ends messages with CRLF and the lines in them with LF."""
    stamp, end = WHATSAPP[shape], "\r\n" if shape.startswith("ios") else "\n"
    notice = "\u200e消息和通话都已加密"
    first = f"{stamp(START)}{'梅朵: ' if shape.startswith('ios') else ''}{notice}{end}"
    return (first + "".join(f"{stamp(line.time)}{NAMES[line.who]}: {line.text}{end}" for line in lines)).encode()


# ---- reading back ---------------------------------------------------------------------------------------------------


def saved(folder: Path, name: str, data: bytes) -> SourceFile:
    path = folder / name
    path.write_bytes(data)
    return inspect(path)


def said(source: SourceFile) -> list[Said]:
    """The messages of a file through the reader that is found for it; nothing may be broken."""
    found = detect_log(source)
    assert found
    items = list(read_log(source, found.name))
    assert all(isinstance(item, Said) for item in items), items
    return [item for item in items if isinstance(item, Said)]


def texts(source: SourceFile) -> list[str]:
    """``text``, or ``<kind>`` with ``!`` where it cuts."""
    return [one.text if not one.kind else f"<{one.kind}{'!' * one.cuts}>" for one in said(source)]
