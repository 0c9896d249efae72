"""Chat logs as conversations: who is who in a first pass, then chat by chat, in bounded memory.

A log is read twice. The first pass finds the people, the chats and whether time ever runs back; where it does, or where
the chats are mixed, the second pass sorts on disk. Messages that an exporter wrote twice are used once.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

from hantune.data.formats.logs import LOGS, detect_log, read_log, whole
from hantune.data.formats.said import Said
from hantune.data.people import Person, Survey, find_me, survey
from hantune.data.rows import SourceFile
from hantune.data.sample import sampled
from hantune.data.spill import in_order
from hantune.data.turns import Talk, Windows, Yield
from hantune.data.types import Conversation, Reject
from hantune.errors import DataError
from hantune.log import console

BEAT = 1000
"""Messages from one step of the bar to the next."""
__all__ = ["Person", "Windows", "Yield", "conversations", "examine", "people"]


def people(source: SourceFile, *, format: str | None = None) -> list[Person]:
    """Everybody who speaks in a log, those with most messages first.

    Raises: DataError ``chatlog.not-a-log``, ``chatlog.window-copy``, ``source.*``.
    """
    return examine(source, format=format).people


def examine(source: SourceFile, *, format: str | None = None) -> Survey:
    """The first pass over a log; given to ``conversations``, it is not made again.

    Raises: DataError ``chatlog.not-a-log``, ``chatlog.window-copy``, ``source.*``.
    """
    return survey(_watched(read_log(source, _format_of(source, format)), "看看有谁"))


def conversations(
    source: SourceFile,
    *,
    me: str | Sequence[str] | None = None,
    format: str | None = None,
    system: str | None = None,
    windows: Windows | None = None,
    report: Yield | None = None,
    found: Survey | None = None,
) -> Iterator[Conversation | Reject]:
    """The conversations of a log in which ``me`` (id, or any nickname he had) is the assistant; a reject for the rest.

    ``meta["session"]`` is equal for conversations that belong to one stretch of a chat, ``meta["chat"]`` for those of
    one chat. ``report`` is filled on the way. Of a source with a sample (``a.txt#500``) so many conversations are
    drawn, and what is no conversation is not told. ``found``: what ``examine`` told, so that it need not look again.

    Raises: DataError ``chatlog.who-am-i`` with the people of the log, ``chatlog.not-a-log``, ``chatlog.window-copy``.
    """
    report = Yield() if report is None else report
    sample, source = source.sample, whole(source)
    name = _format_of(source, format)
    found = found or examine(source, format=name)
    mine = find_me(found, me, source.name)
    if name == "qq":
        _warn_of_renamed(found, mine, source.name)

    def read() -> Iterator[Conversation | Reject]:
        vars(report).update(vars(Yield()))
        return _read(source, name, found, mine, system, windows or Windows(), report)

    if not sample:
        return read()
    return sampled(sample, source.sha256, lambda: (item for item in read() if isinstance(item, Conversation)))


def _format_of(source: SourceFile, format: str | None) -> str:
    """The name of the reader, told or found.

    Raises: DataError ``chatlog.not-a-log``, ``chatlog.window-copy``.
    """
    if format in LOGS:
        return str(format)
    detected = detect_log(source)
    if not detected:
        raise DataError(
            "chatlog.not-a-log",
            f"不是认得的聊天记录 (认得: {', '.join(LOGS)})",
            place=source.name,
            hint="怎样导出见 docs/reference/chatlogs.md; 也可以用 --format 指定其中一种",
        )
    return detected.name


def _warn_of_renamed(found: Survey, mine: frozenset[str], file: str) -> None:
    """A private chat has no ids: a third name in it is one of the two under another name, maybe the user."""
    for chat, speakers in found.speakers.items():
        others = sorted(speakers - mine)
        if found.groups.get(chat) is False and len(others) > 1:
            names = "、".join(others[:5])
            partner = chat.partition("/")[2]
            console.warn(f"{file}: 私聊 {partner} 里有 {len(others)} 个别人的名字 ({names}); 是你的旧名字就也写进 --me")


def _read(
    source: SourceFile,
    name: str,
    found: Survey,
    mine: frozenset[str],
    system: str | None,
    windows: Windows,
    report: Yield,
) -> Iterator[Conversation | Reject]:
    """The second pass."""
    rejects: list[Reject] = []
    messages = _messages(read_log(source, name), report, rejects)
    if not found.is_sorted:
        messages = in_order(messages, lambda said: (found.chats[said.chat], said.time), Said)
    names = {person.id: person.name or person.id or "(无名)" for person in found.people}
    for chat, talked in itertools.groupby(_once(messages, report), key=lambda said: said.chat):
        talk = Talk(
            chat=chat or source.name,
            is_mine=lambda said: said.sender in mine,
            report=report,
            windows=windows,
            name_of=(lambda said: names[said.sender]) if found.is_group(chat, mine) else None,
            system=system,
        )
        for result in talk.take(talked):
            yield from _emptied(rejects)
            yield result
    yield from _emptied(rejects)


def _messages(items: Iterable[Said | Reject], report: Yield, rejects: list[Reject]) -> Iterator[Said]:
    """The messages alone; records that are none are counted and put aside."""
    for item in _watched(items, "读聊天记录"):
        report.read += 1
        if isinstance(item, Reject):
            report.broken[item.reason] += 1
            rejects.append(item)
        else:
            yield item


def _watched(items: Iterable[Said | Reject], title: str) -> Iterator[Said | Reject]:
    """The same items under a progress bar."""
    with console.progress(title, unit="条消息") as bar:
        for number, item in enumerate(items, 1):
            if number % BEAT == 0:
                bar.advance(BEAT)
            yield item


def _emptied(rejects: list[Reject]) -> Iterator[Reject]:
    """The rejects put aside so far, which are forgotten."""
    while rejects:
        yield rejects.pop(0)


def _once(messages: Iterable[Said], report: Yield) -> Iterator[Said]:
    """The messages without those that another block of the same chat holds as well."""
    second: tuple[str, int] | None = None
    blocks: dict[tuple[str, str, str], int] = {}
    for said in messages:
        if (said.chat, said.time) != second:
            second, blocks = (said.chat, said.time), {}
        if blocks.setdefault((said.sender, said.text, said.kind), said.block) != said.block:
            report.repeated += 1
        else:
            yield said
