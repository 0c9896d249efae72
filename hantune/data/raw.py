"""A raw file or folder read as it would be prepared, without writing anything: for a look and for figures."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from hantune.data.opening import open_source
from hantune.data.prepare import nothing_usable
from hantune.data.prepared import Prepared, is_prepared, open_prepared
from hantune.data.sources import expand, inspect
from hantune.data.turns import Yield
from hantune.data.types import Conversation, Reject


class RawData:
    """The conversations of raw files; all of them stand for the training part."""

    def __init__(self, given: str, format: str | None = None, me: Sequence[str] = ()) -> None:
        """``me``: who the user is in a chat log.

        Raises: DataError ``source.*``.
        """
        self.files = [inspect(place) for place in expand(given)]
        self.format = format
        self.me = me
        self.whys: list[str] = []
        self.rejected: Counter[str] = Counter()

    def conversations(self, part: Literal["train", "val"]) -> Iterator[Conversation]:
        """All usable conversations for ``train``, none for ``val``; ``rejected`` counts the others by reason.

        Raises: DataError ``source.*``, ``format.unknown-fields``, ``chatlog.*``; ``data.nothing-usable`` at the end of
            files without one usable record.
        """
        if part == "val":
            return
        read, found_any, first_places, logs = 0, False, dict[str, str](), list[Yield]()
        for file in self.files:
            opened = open_source(file, self.format, self.me)
            logs += [opened.log] if opened.log else []
            self.whys.append(f"{file.name}: {opened.found.why}")
            for _, item in opened.items(file):
                read += 1
                for result in opened.results(item):
                    if isinstance(result, Reject):
                        self.rejected[result.reason] += 1
                        first_places.setdefault(result.reason, result.source)
                    else:
                        found_any = True
                        yield result
        if not found_any:
            raise nothing_usable([file.name for file in self.files], read, self.rejected, first_places, logs)

    def by_file(self) -> list[RawData]:
        """Each file as data of its own; what is told of them (``whys``, ``rejected``) comes together here."""
        alone = [copy.copy(self) for _ in self.files]
        for each, file in zip(alone, self.files, strict=True):
            each.files = [file]
        return alone


def open_data(given: str, me: Sequence[str] = ()) -> Prepared | RawData:
    """What ``given`` stands for: a PREPARED folder, or raw files.

    Raises: DataError ``source.*``.
    """
    path = Path(given).expanduser()
    return open_prepared(path) if is_prepared(path) else RawData(given, me=me)
