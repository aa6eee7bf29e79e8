"""A base for backends whose jobs run elsewhere: waiting for many jobs by asking about all of them at once."""

from __future__ import annotations

import asyncio
import logging
from abc import abstractmethod
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, ClassVar

from arf.errors import BackendError
from arf.interfaces import Backend
from arf.types import JobResult

log = logging.getLogger(__name__)

GROWTH = 1.5
"""How much longer the pause between two questions becomes while nothing happens."""


class PollingBackend(Backend):
    """Turns one question about all jobs into `wait` for each of them.

    There are two ways to learn of an end. `glance` looks at what costs nothing to look at (files in a shared
    folder), and is called often. `poll` asks the cluster, and is called rarely: at once when there is reason
    to (`soon`), then with pauses that grow up to `poll_interval_s[1]`, and never more often than
    `poll_interval_s[0]` allows; never for one job alone, and never while `is_due` says that there is nothing
    to ask. A cluster that does not answer is asked again, after longer pauses, for as long as it takes.

    A subclass implements `submit`, `cancel` and `poll`, calls `follow` for each job that it starts, and
    `soon` after what is likely to end a job.
    """

    glance_interval_s: ClassVar[tuple[float, float]] = (0.02, 1.0)
    """The shortest and the longest pause between two glances; near the shortest while much is happening."""

    def __init__(
        self, options: Any, directory: Path, *, poll_interval_s: tuple[float, float] = (5.0, 60.0)
    ) -> None:
        super().__init__(options, directory)
        self.poll_interval_s = poll_interval_s
        self.polls = 0
        """Questions asked so far."""
        self._ends: dict[str, asyncio.Future[JobResult]] = {}
        self._open: set[str] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._woken = asyncio.Event()
        self._news_at = 0.0
        self._polled_at = float("-inf")
        self._poll_pause_s = poll_interval_s[0]
        self._unheard = 0
        """Questions in a row that were not answered."""

    # ---- For the subclass -------------------------------------------------------------------

    @abstractmethod
    async def poll(self, handles: Collection[str]) -> Mapping[str, JobResult]:
        """Ask the cluster, once, about all jobs; the ends of those that have ended.

        A handle that is left out goes on. Raises BackendError if the cluster does not answer.
        """

    async def glance(self, handles: Collection[str]) -> Mapping[str, JobResult]:
        """The ends that can be seen without asking the cluster. Must be cheap."""
        return {}

    def is_due(self) -> bool:
        """Whether the cluster could say anything that `glance` does not show."""
        return True

    def follow(self, handle: str) -> None:
        """Look after a job from now on, whether anybody waits for it or not."""
        self._bind()
        if handle not in self._ends:
            self._ends[handle] = asyncio.get_running_loop().create_future()
            self._open.add(handle)
        if self._open and (self._task is None or self._task.done()):
            self._task = asyncio.get_running_loop().create_task(self._watch())
        self.soon()

    def soon(self) -> None:
        """Glance now, and ask the cluster as soon as its shortest pause is over."""
        self._poll_pause_s = self.poll_interval_s[0]
        self._news_at = self._now()
        self._woken.set()

    # ---- The interface ----------------------------------------------------------------------

    async def wait(self, handle: str) -> JobResult:
        self._bind()
        if handle not in self._ends or handle in self._open:
            self.follow(handle)
        return await asyncio.shield(self._ends[handle])

    async def aclose(self) -> None:
        if self._task is not None and self._loop is asyncio.get_running_loop():
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for future in self._ends.values():
            future.cancel()
        self._task = self._loop = None

    # ---- Watching ---------------------------------------------------------------------------

    def _bind(self) -> None:
        """Begin to work in this event loop; what was waited for in an earlier one is forgotten."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop, self._task = loop, None
            self._ends, self._open, self._woken = {}, set(), asyncio.Event()

    async def _watch(self) -> None:
        try:
            while self._open:
                self._woken.clear()
                self._settle(await self.glance(frozenset(self._open)))
                if self._open and self._may_poll():
                    await self._ask()
                await self._pause()
        except asyncio.CancelledError:
            raise
        except Exception as error:  # whoever waits must hear of it: a bug, or a folder that is gone
            for handle in self._open:
                end = self._ends.pop(handle)  # who waits again wants to know how things stand then
                end.set_exception(error)
                end.exception()  # nobody may be waiting
            self._open.clear()

    def _may_poll(self) -> bool:
        return self._now() >= self._polled_at + self._poll_pause_s and self.is_due()

    async def _ask(self) -> None:
        self._polled_at = self._now()
        self.polls += 1
        try:
            ended = await self.poll(frozenset(self._open))
        except BackendError as error:
            self._unheard += 1
            if self._unheard == 2:  # once is nothing: controllers are busy, and restart
                log.warning("%s; asking again until it answers", error)
            ended = {}
        else:
            if self._unheard > 1:
                log.warning("the cluster answers again")
            self._unheard = 0
        self._poll_pause_s = min(self._poll_pause_s * GROWTH, self.poll_interval_s[1])
        self._settle(ended)

    def _settle(self, ended: Mapping[str, JobResult]) -> None:
        for handle, result in ended.items():
            if handle in self._open:
                self._open.discard(handle)
                self._ends[handle].set_result(result)
                self._news_at = self._now()

    async def _pause(self) -> None:
        """Short after news, longer the longer there is none; a waiting job is told at once what is `soon`."""
        if not self._open:
            return
        shortest, longest = self.glance_interval_s
        pause_s = min(max((self._now() - self._news_at) / 20, shortest), longest)
        try:
            await asyncio.wait_for(self._woken.wait(), pause_s)
        except TimeoutError:
            pass

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
