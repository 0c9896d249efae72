"""Who speaks in a chat log, in which chats, and which of them is the user (``--me``)."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from hantune.data.formats.qq import RECENT
from hantune.data.formats.said import Said
from hantune.data.types import Reject
from hantune.errors import DataError
from hantune.log import console

LISTED = 20
"""How many people an error names."""
NOBODY = frozenset({"系统通知", RECENT})
"""Kinds of messages that count for no person."""
_TITLES = re.compile(r"(?:【[^【】]*】)+")


class Person(NamedTuple):
    """Somebody of a log: the id (the nickname in logs without ids), the commonest name, messages, all names."""

    id: str
    name: str
    messages: int
    names: tuple[str, ...] = ()

    def __str__(self) -> str:
        others = [name for name in self.names if name not in (self.name, self.id)]
        known = f"{self.name or '(空昵称)'}" + (f" ({self.id})" if self.id != self.name else "")
        return known + (f", 也叫 {'、'.join(others[:3])}" if others else "")


class WhoAmI(DataError):
    """``chatlog.who-am-i``, with all people of the log, so that a terminal can ask."""

    def __init__(self, problem: str, people: Sequence[Person], file: str) -> None:
        self.problem, self.people = problem, people
        listed = "".join(f"\n  {person.messages} 条  {person}" for person in people[:LISTED])
        more = f"\n  ... 一共 {len(people)} 人" if len(people) > LISTED else ""
        best = people[0].id if people else "号码或昵称"
        super().__init__(
            "chatlog.who-am-i",
            f"{problem}. 里面的人:{listed or ' 一个也没有'}{more}",
            place=file,
            hint=f'hantune data prepare {file} --out prepared --me "{best}"  (换成你自己的号码或昵称)',
        )

    def named(self, word: str) -> str | None:
        """The id of whom an answer means: the number in the list, an id, or a name that only one has."""
        if word.isdecimal() and 1 <= int(word) <= min(len(self.people), LISTED):
            return self.people[int(word) - 1].id
        ids = [person.id for person in self.people if word in (person.id, *person.names)]
        return word if word in ids else ids[0] if len(ids) == 1 else None


@dataclass
class Survey:
    """What one pass over a log tells: people, chats in the order of their beginnings, whether time ever runs back."""

    names: dict[str, Counter[str]] = field(default_factory=dict)
    chats: dict[str, int] = field(default_factory=dict)
    speakers: dict[str, set[str]] = field(default_factory=dict)
    groups: dict[str, bool | None] = field(default_factory=dict)
    marked: set[str] = field(default_factory=set)
    is_sorted: bool = True
    messages: int = 0

    @property
    def people(self) -> list[Person]:
        """Everybody, those with most messages first."""
        found = [
            Person(id, max(names, key=lambda name: (bool(name), names[name])), names.total(), tuple(names))
            for id, names in self.names.items()
        ]
        return sorted(found, key=lambda person: -person.messages)

    def is_group(self, chat: str, me: frozenset[str]) -> bool:
        """Whether others in a chat must be told apart: the log says so, or more than one speaks and it does not."""
        others = len(self.speakers.get(chat, set()) - me)
        told = self.groups.get(chat)
        return others > 1 if told is None else told


def survey(items: Iterable[Said | Reject]) -> Survey:
    """What a log tells in one pass over its messages."""
    found = Survey()
    last_chat, last_time = "", 0
    for said in items:
        found.messages += 1
        if isinstance(said, Reject):
            continue
        if said.chat != last_chat or not found.chats:
            found.is_sorted &= said.chat not in found.chats
            found.chats.setdefault(said.chat, len(found.chats))
            found.speakers.setdefault(said.chat, set())
        elif said.time < last_time:
            found.is_sorted = False
        last_chat, last_time = said.chat, said.time
        if said.kind in NOBODY:
            continue
        found.names.setdefault(said.sender, Counter())[said.name] += 1
        found.speakers[said.chat].add(said.sender)
        if said.is_me:
            found.marked.add(said.sender)
        told = found.groups.setdefault(said.chat, said.is_group)
        if told is not said.is_group and not told:  # a chat is private where every message says so
            found.groups[said.chat] = said.is_group or None
    return found


def find_me(found: Survey, me: str | Sequence[str] | None, file: str) -> frozenset[str]:
    """The ids that are the user: whom ``--me`` names (an id, or any name a person ever had), else whom the log marks.

    A name that nobody has here is said where another one is found: of several logs, each may know him by another. A
    name of several people is the one of them whom another word names.

    Raises: WhoAmI (DataError ``chatlog.who-am-i``) with the people of the log.
    """
    wanted = [me] if isinstance(me, str) else list(me or ())
    if not wanted:
        if found.marked:
            return frozenset(found.marked)
        raise WhoAmI("不知道哪一个是你, 要用 --me 说", found.people, file)
    called = {name: _called(found, name) for name in wanted}
    sure = {id for people in called.values() if len(people) == 1 for id in people}
    for name, people in called.items():
        if len(people) > 1 and not people & sure:
            same = "、".join(sorted(people))
            raise WhoAmI(f"叫 {name} 的有 {len(people)} 个人 ({same}), 要用号码说", found.people, file)
    unknown = [name or "(空)" for name, people in called.items() if not people]
    if not sure:
        raise WhoAmI(f"聊天记录里没有 {'、'.join(unknown)}", found.people, file)
    if unknown:
        console.warn(f"{file}: 聊天记录里没有 {'、'.join(unknown)}, 按 --me 里其它的名字认你")
    return frozenset(sure)


def _called(found: Survey, name: str) -> set[str]:
    """The ids of the people with this id or name; looser spellings count only where nobody fits exactly."""
    if name in found.names:
        return {name}
    for spell in (str, str.strip, _loose):
        people = {id for id, names in found.names.items() if spell(name) in map(spell, (id, *names))}
        if people:
            return people
    return set()


def _loose(name: str) -> str:
    """A name without titles, width, case and blanks."""
    bare = _TITLES.sub("", unicodedata.normalize("NFKC", name)).strip("<>()")
    return "".join(bare.casefold().split()) or name
