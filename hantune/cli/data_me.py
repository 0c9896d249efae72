"""Who is the user in a chat log: asked in a terminal where ``--me`` does not say it."""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from hantune.cli.frame import Answer
from hantune.log import console

if TYPE_CHECKING:
    from hantune.data.people import WhoAmI


def asks_me(function: Callable[..., Answer]) -> Callable[..., Answer]:
    """The command again, with what was answered added to its ``me`` until it needs no more.

    Without a terminal, under ``--json`` and ``--quiet``, and where nothing is answered, the error stays.
    """

    @functools.wraps(function)
    def run(*arguments: object, me: Sequence[str] | None = None, **named: object) -> Answer:
        from hantune.data.people import WhoAmI

        mine = list(me or ())
        while True:
            try:
                return function(*arguments, me=list(mine), **named)
            except WhoAmI as error:
                answers = _ask(error) if console.can_ask and error.people else []
                if not answers:
                    raise
                mine += answers

    return run


def _ask(error: WhoAmI) -> list[str]:
    """The ids of those whom the user picks from the numbered people of the log; none at the end of the input."""
    from hantune.data.people import LISTED

    people = error.people
    console.say(f"{error.place}: {error.problem}")
    for number, person in enumerate(people[:LISTED], 1):
        console.say(f"  {number:>2}. {person}  {person.messages} 条")
    if len(people) > LISTED:
        console.say(f"      ... 一共 {len(people)} 人, 没列出的可以直接写号码或名字")
    while True:
        console.say("哪一个是你? 写前面的序号, 改过名有几个就用空格隔开 (直接回车 = 不选):")
        line = sys.stdin.readline().strip()
        words = re.split("[\\s,，、;；]+", line) if line else []
        chosen = [error.named(word) for word in words]
        if None not in chosen:
            ids = list(dict.fromkeys(id for id in chosen if id is not None))
            if ids:
                console.say("下次可以直接写: " + " ".join(f'--me "{id}"' for id in ids))
            return ids
        console.say(f"没有 {words[chosen.index(None)]}, 再写一次")
