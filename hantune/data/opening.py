"""A file opened: its format, told or judged from its beginning, and its records or the conversations of a chat log."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

from hantune.data.chatlog import conversations, examine
from hantune.data.container import Part
from hantune.data.formats import Detection, detect, get_format
from hantune.data.formats.logs import LOGS, detect_log, whole
from hantune.data.sources import SourceFile, read_parts
from hantune.data.turns import Yield
from hantune.data.types import Conversation, Reject, Row

ROWS_TO_DETECT = 50
Item = Row | Conversation | Reject
"""A record of a file, a conversation out of a chat log, or why it is none."""
Read = Callable[[Row], Iterator[Conversation | Reject]]


class Opened(NamedTuple):
    """A file whose format is known. ``people``: everybody in a chat log, each with all names; None for other files."""

    found: Detection
    read: Read
    items: Callable[[SourceFile], Iterator[tuple[Part, Item]]]
    people: list[tuple[str, ...]] | None = None
    log: Yield | None = None

    def results(self, item: Item) -> Iterator[Conversation | Reject]:
        """The conversations of a record, or why it has none."""
        return self.read(item) if isinstance(item, Row) else iter((item,))


def open_source(source: SourceFile, format: str | None, me: Sequence[str] = ()) -> Opened:
    """The format of a file and how to get at its records; ``me``: whose answers in a chat log are learned.

    Raises: DataError ``source.*``, ``format.unknown-fields``, ``chatlog.*``.
    """
    if source.container == "prepared":
        found = Detection("messages", "hantune data prepare 的输出")
        return Opened(found, get_format(found.name).read, read_parts)
    if format in LOGS:
        return _open_log(source, Detection(str(format), "指定的格式"), me)
    if format:
        return Opened(Detection(format, "指定的格式"), get_format(format).read, read_parts)
    log = detect_log(source)
    if log:
        return _open_log(source, Detection(log.name, log.why), me)
    rows = list(itertools.islice((item for _, item in read_parts(source) if isinstance(item, Row)), ROWS_TO_DETECT))
    if not rows:
        return Opened(Detection("", "没有一条能读的记录"), _no_rows, read_parts)
    found = detect(rows)
    return Opened(found, get_format(found.name).read, read_parts)


def _open_log(source: SourceFile, found: Detection, me: Sequence[str]) -> Opened:
    """A chat log: its records are the conversations that it gives, and what gives none."""
    report = Yield()
    survey = examine(whole(source), format=found.name)
    everybody = [(person.name or person.id, *person.names, person.id) for person in survey.people]
    read = partial(conversations, me=list(me) or None, format=found.name, report=report, found=survey)

    def items(source: SourceFile) -> Iterator[tuple[Part, Item]]:
        return ((source.part, result) for result in read(source))

    return Opened(found, _no_rows, items, everybody, report)


def _no_rows(row: Row) -> Iterator[Conversation | Reject]:
    """The reader of a file without rows: never called."""
    yield from ()
