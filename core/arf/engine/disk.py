"""Puts on disk what turns have written, where that did not come first."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from arf.engine.tasks import Tasks
    from arf.interfaces import Workspace
    from arf.store.database import Store


class Disk:
    """The workspace and the store of a study, made proof against a power failure a moment after each turn."""

    def __init__(self, workspace: Workspace, store: Store, tasks: Tasks) -> None:
        self._workspace = workspace
        self._store = store
        self._tasks = tasks
        self._is_settled = True
        self._settling: asyncio.Task[None] | None = None

    def flush(self) -> None:
        """Now. Raises StoreError or WorkspaceError if the disk refuses."""
        self._workspace.flush()
        self._store.flush()

    def settle(self) -> None:
        """Soon, in a thread: a disk that is busy with somebody's checkpoint can take seconds."""
        if not self._store.is_file:
            return
        self._is_settled = False
        if self._settling is None or self._settling.done():
            self._settling = self._tasks.spawn(self._put_on_disk())

    async def _put_on_disk(self) -> None:
        while not self._is_settled:
            self._is_settled = True
            await asyncio.to_thread(self.flush)
