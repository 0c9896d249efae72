"""What a user can do where one bad file stops the preparation of a whole folder."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from hantune.errors import DataError
from hantune.paths import quoted

FAULTS = ("source.", "format.unknown-fields", "chatlog.window-copy", "chatlog.not-a-log")
"""Codes (or their beginnings) of a file's own faults."""


@contextlib.contextmanager
def told_how_to_leave_out(sources: Sequence[str]) -> Iterator[None]:
    """An error about a file in a folder also says how to go on without that file.

    One bad file stops the rest on purpose: half a data set that is taken for all of it shows only in the model.
    """
    try:
        yield
    except DataError as error:
        folders = [path for path in (Path(each).expanduser() for each in sources) if path.is_dir()]
        found = [(file, folder) for folder in folders if (file := _file_in(folder, error.place or ""))]
        if found and error.code.startswith(FAULTS):
            file, folder = found[0]
            away = f"不要这个文件就移出去: mv {quoted(file)} {quoted(folder.parent)}"
            error.hint = f"{error.hint}; {away}" if error.hint else away
        raise


def _file_in(folder: Path, place: str) -> Path | None:
    """The file of the folder that a place (``folder/file:line``, ``folder/a.zip/member``) names."""
    for start in (f"{folder.as_posix()}/", f"{folder.name}/"):
        if place.startswith(start):
            path = folder / re.sub(r":\d+(?:#.*)?$", "", place.removeprefix(start))
            return next((each for each in (path, *path.parents) if folder in each.parents and each.is_file()), None)
    return None
