"""Tells whether data that work trees share by links changes while a study runs."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from arf.engine.monitor import Monitor, Use

if TYPE_CHECKING:
    from arf.store.database import Store

log = logging.getLogger(__name__)

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


class SharedDataMonitor(Monitor):
    """Says so if a job, or whoever else, has changed data that all work trees share."""

    def __init__(
        self, store: Store, targets: Callable[[], Iterable[str]], now: Callable[[], datetime]
    ) -> None:
        """`targets` gives what the links of the work trees lead to."""
        self._store = store
        self._targets = targets
        self._now = now
        self._data: LinkedData | None = None
        """As it was at the first turn: the workspace's set-up may have made it."""

    def turned(self, elapsed_s: float, idle: Sequence[tuple[str, Use, int]]) -> bool:
        if self._data is None and all(use is not Use.SET_UP for _, use, _ in idle):
            self._data = LinkedData(Path(target) for target in self._targets())
        return False

    async def look(self) -> None:
        changed = self._data.changed() if self._data is not None else []
        if changed:
            more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
            text = (
                f"{', '.join(changed[:3])}{more}: changed while the study runs, and all runs share them by "
                "links: what ran before and after may not compare"
            )
            log.warning("%s", text)
            self._store.add_event("data", text, self._now())
