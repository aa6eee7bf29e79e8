"""Tells whether data that work trees share by links changes while a study runs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

MOST_FILES = 2_000
"""Of more files than these, the rest is not looked at: a look must stay a matter of milliseconds."""


class LinkedData:
    """The files behind links, as they are now. Later ones do not count: a script may keep a cache there."""

    def __init__(self, targets: Iterable[Path]) -> None:
        paths = (path for target in targets for path in _files(target))
        self._seen = {path: _stamp(path) for path in islice(paths, MOST_FILES)}

    def changed(self) -> list[str]:
        """The files that have changed or gone; each is told once."""
        found = [path for path, before in self._seen.items() if _stamp(path) != before]
        for path in found:
            del self._seen[path]
        return found


def _files(target: Path) -> Iterator[str]:
    if target.is_file():
        yield str(target)
    for folder, folders, names in os.walk(target):
        folders[:] = sorted(name for name in folders if name not in (".git", "__pycache__"))
        yield from (os.path.join(folder, name) for name in sorted(names))


def _stamp(path: str) -> tuple[int, int] | None:
    """Size and time of a file; None if there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns
